"""`mmbal methods list|show`: what a reader sees of every method, and that a reconstruction is called one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbal_cli.cli.methods import RECONSTRUCTED
from mmbal_cli.methods import METHODS, method_class
from mmbal_cli.methods.table import year
from mmbal_cli.nn.fusion import FUSIONS
from tests.kit.cli import Inside

OWN = '''"""A method of a user.

    L = CE [bold]literally[/bold]
"""

from mmbal_cli.methods.base import Card, Method, knob


class Own(Method):
    card = Card("own", "loss", paper="Someone, 2026", stages="two: 30% of the epochs for the teacher",
                holds_out="10% of train", backwards=2, deviates=("one", "two"), reconstructed={reconstructed})
    gate = knob("soft", "how to gate", source="ours", choices=("soft", "hard"))
    heat = knob(0.5, "temperature [1]", source="paper", low=0.1, when="gate=soft")
'''


BROKEN = """
    def loss(self, out, batch):
        raise ValueError("not today")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN.format(reconstructed=True))
    (tmp_path / "known.py").write_text(OWN.format(reconstructed=False))
    return tmp_path


def test_list_names_every_method_and_fusion_and_marks_reconstructions(tmp_path: Path, inside: Inside) -> None:
    lines = inside("methods", "list", cwd=tmp_path).stdout.splitlines()
    shown = [line.split("  ")[0] for line in lines[1:]]
    marked = [name for name, row in METHODS.items() if row.reconstructed]
    assert shown[: len(METHODS)] == [name + " (reconstructed)" * (name in marked) for name in METHODS]
    assert shown[len(METHODS) : -2] == [f"--fusion {name}" for name in FUSIONS]
    for row, line in zip(METHODS.values(), lines[1:], strict=False):
        assert all(text in line for text in (row.kind, *row.paper.split(), year(row.paper), row.M, row.line))
    found = json.loads(inside("methods", "list", "-f", "json", cwd=tmp_path).stdout)
    assert [row["name"] for row in found["methods"] if row["reconstructed"]] == marked
    assert {row["name"] for row in found["methods"]} == set(METHODS)
    assert {row["year"] for row in found["methods"]} <= {"", *map(str, range(2017, 2027))}
    assert len(found["methods"]) >= 40
    assert [row["name"] for row in found["fusions"]] == list(FUSIONS)


@pytest.mark.parametrize("name", ["channel", "Channel", "MMTM"])
def test_the_posters_name_of_a_fusion_is_known(name: str, tmp_path: Path, inside: Inside) -> None:
    assert json.loads(inside("methods", "show", name, "-f", "json", cwd=tmp_path).stdout)["name"] == "mmtm"


def test_check_tells_what_holds_and_what_breaks(own: Path, inside: Inside) -> None:
    text = OWN.replace('"loss",', '"loss", ordered="by name",').format(reconstructed=False)
    (own / "own.py").write_text(text + BROKEN)
    only = ["--only", "trains", "--only", "any-order", "--only", "repeats"]
    done = inside("methods", "check", "own.py:Own", *only, cwd=own, code=1)
    lines = done.stdout.splitlines()
    verdicts = {
        line.split("  ")[0]: line.split()[1] for line in lines if line.startswith(("trains", "any-", "repeats"))
    }
    assert verdicts == {"trains": "BREAKS", "any-order": "-", "repeats": "BREAKS"}
    place = (text + BROKEN).splitlines().index('        raise ValueError("not today")') + 1
    assert any(f"ValueError: not today (own.py, line {place})" in line for line in lines)
    assert any("by name" in line for line in lines)
    assert lines[-1] == "own: 2 of 3 checks break."
    assert "checking own: 3/3" in done.stderr
    found = json.loads(inside("methods", "check", "own.py:Own", *only, "-f", "json", cwd=own, code=1).stdout)
    assert (found["method"], found["holds"]) == ("own", False)
    assert [row["verdict"] for row in found["checks"]] == ["breaks", "none", "breaks"]


def test_check_takes_knobs_and_refuses_typing_errors(tmp_path: Path, inside: Inside) -> None:
    only = ["--only", "special-case", "--only", "trains"]
    done = inside("methods", "check", "uniform", *only, "--set", "method.gamma=2", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "uniform: 0 of 2 checks break."
    for words in (["unifrom"], ["uniform", "--only", "trans"], ["uniform", "--set", "method.gama=2"]):
        assert "Did you mean" in inside("methods", "check", *words, cwd=tmp_path, code=2).stderr


def test_show_prints_everything_a_reader_must_know(own: Path, inside: Inside) -> None:
    lines = inside("methods", "show", "own.py:Own", cwd=own).stdout.splitlines()
    facts = {key: line.removeprefix(key).strip() for line in lines for key in FACTS if line.startswith(f"{key}  ")}
    assert facts == FACTS
    assert "    L = CE [bold]literally[/bold]" in lines
    assert [line.split() for line in lines if line.startswith("method.gate")] == [
        ["method.gate", "soft", "one", "of", "soft,", "hard", "how", "to", "gate", "ours"]
    ]
    (heat,) = (line for line in lines if line.startswith("method.heat"))
    assert "  float from 0.1, if method.gate=soft  temperature [1]  paper" in heat


FACTS = {
    "name": "own",
    "status": RECONSTRUCTED,
    "paper": "Someone, 2026",
    "backward passes": "2",
    "stages": "two: 30% of the epochs for the teacher",
    "holds out": "10% of train",
    "deviations": "one; two",
}


def test_show_as_json_has_all_of_it(own: Path, inside: Inside) -> None:
    found = json.loads(inside("methods", "show", "own.py:Own", "-f", "json", cwd=own).stdout)
    wanted = FACTS | {"backward passes": 2, "deviations": ["one", "two"], "reconstructed": True}
    assert found.items() >= wanted.items()
    assert found["knobs"]["heat"] == {
        "default": 0.5,
        "help": "temperature [1]",
        "source": "paper",
        "valid": "Expected float from 0.1.",
        "when": "gate=soft",
    }
    assert found["knobs"]["gate"]["when"] == ""


def test_a_published_method_has_no_status(own: Path, inside: Inside) -> None:
    assert "RECONSTRUCTED" not in inside("methods", "show", "known.py:Own", cwd=own).stdout
    found = json.loads(inside("methods", "show", "known.py:Own", "-f", "json", cwd=own).stdout)
    assert (found["reconstructed"], found["status"]) == (False, "")


def test_names_are_found_as_they_are_spelled_and_unknown_ones_refused(tmp_path: Path, inside: Inside) -> None:
    assert "method.gamma" in inside("methods", "show", "ARL", cwd=tmp_path).stdout
    assert "recipe cremad" in inside("methods", "show", "arl", cwd=tmp_path).stdout
    wrong = inside("methods", "show", "arll", cwd=tmp_path, code=2)
    assert "Did you mean 'arl'?" in wrong.stderr
    assert wrong.stdout == ""


@pytest.mark.parametrize("name", METHODS)
def test_table_and_card_agree(name: str) -> None:
    row, card = METHODS[name], method_class(name).card
    assert (row.reconstructed, row.kind) == (card.reconstructed, card.kind)
