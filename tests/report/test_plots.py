"""Pictures of runs: their bytes repeat, labels cannot break them, and the command writes or refuses them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbal_cli.cli.plot import FORMATS as OFFERED
from mmbal_cli.cli.plot import Kind
from mmbal_cli.errors import MmbalError
from mmbal_cli.report.plots import (
    FORMATS,
    KINDS,
    Options,
    curves,
    draw,
    render,
    save,
    svg,
)
from tests.kit.cli import ROOT, invoke
from tests.kit.plots import FEW, SAVED, SVG, only, read, some, texts, write_recorded_study, write_records
from tests.kit.runs import write_run

HOSTILE = (
    "$\\frac{1}{0}$",
    "_under",
    "a^b_c\\d",
    "x" * 150,
    "漢字 ☃",
    "tab\there\nnew\x1b[31mline",
    '50% & <b>"q"</b>',
    "",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recorded_study(tmp_path_factory.mktemp("plots"))


# ------------------------------------------------------------------------------------------- pictures of every kind


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("width", ["page", "column"])
def test_every_kind_is_a_png_of_its_size_and_an_svg_with_its_labels(study: Path, kind: str, width: str) -> None:
    wide, names = (7.0, {"unimodal:audio", "concat", "ogm-ge", "arl"}) if width == "page" else (3.4, set(FEW))
    pictures = draw(kind, some(study, names), Options(width=width))
    shown = [text for picture in pictures for text in texts(picture)]
    if kind == "critical-difference":
        shown = [text.partition("  ")[2] or text for text in shown] + [text.partition("  ")[0] for text in shown]
    assert names <= set(shown)
    for picture in pictures:
        image = Image.open(io.BytesIO(render(picture, "png", 100)))
        assert image.size == pytest.approx(picture.figure.get_size_inches() * 100, abs=1)
        assert image.size[0] <= wide * 100 + 1
        assert image.info["Description"] == picture.caption
        assert np.asarray(image.convert("L")).min() < 100
        assert "demo" in picture.caption
        assert "n = 5 seeds each" in picture.caption or kind == "critical-difference"


@pytest.mark.parametrize("kind", SAVED)
def test_the_same_runs_give_the_same_bytes(study: Path, kind: str) -> None:
    runs = some(study)
    made = [[render(p, format, 80) for p in draw(kind, runs) for format in FORMATS] for _ in range(2)]
    assert made[0] == made[1]
    assert not re.search(rb"20\d\d-\d\d-\d\dT|CreationDate", b"".join(made[0]))


def test_an_svg_stands_in_a_page_beside_others(study: Path) -> None:
    runs = some(study)
    pictures = [*draw("bars", runs), *draw("curves", runs), *draw("dynamics", runs)]
    page = ElementTree.fromstring(f"<div>{''.join(svg(picture) for picture in pictures)}</div>")
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', "".join(svg(picture) for picture in pictures))
    assert {one or other for one, other in used} <= set(ids)
    for picture, element in zip(pictures, page, strict=True):
        assert element.tag == f"{SVG}svg"
        assert element.get("aria-label") == picture.caption
        assert not svg(picture).startswith("<?xml")


def test_an_svg_names_itself_and_fonts_that_are_everywhere(study: Path) -> None:
    picture = only(draw("bars", read(study)))
    root = ElementTree.fromstring(render(picture, "svg"))
    assert [root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")] == [picture.title, picture.caption]
    fonts = set(re.findall(r"font-family: ([^;\"]*)", render(picture, "svg").decode()))
    assert fonts == {"'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and a modality with labels that could break a figure, an SVG or a terminal."""
    root = tmp_path_factory.mktemp("hostile")
    for i, label in enumerate(HOSTILE):
        folder = write_run(root, label, {"audio": 1.5, "$m_1^2$ & <x>": 0.5 + 0.1 * i}, seeds=(1, 2), method=f"m{i}")
        write_records(folder, ("audio", "$m_1^2$ & <x>"), 2)
    return root


@pytest.mark.parametrize("kind", SAVED)
def test_hostile_labels_are_drawn_as_they_are(hostile: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    pictures = draw(kind, read(hostile), Options(bins=3))
    shown = "\n".join(text for picture in pictures for text in texts(picture))
    for text in (
        "$\\frac{1}{0}$",
        "_under",
        "a^b_c\\d",
        "漢字",
        "tab\\there\\nnew\\x1b[31mline",
        "(no name)",
        "xxx…xxx",
    ):
        assert text in shown
    ElementTree.fromstring(svg(pictures[0]))
    assert render(pictures[0], "png", 60).startswith(b"\x89PNG")
    assert render(pictures[0], "pdf").startswith(b"%PDF")
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def test_legacy_runs_are_stamped_in_every_picture(tmp_path: Path) -> None:
    protocol = {"name": "legacy", "selection": "TEST accuracy"}
    for label, strength in (("concat", 1.0), ("arl", 1.2), ("lfm-h", 1.4)):
        write_records(write_run(tmp_path, label, {"audio": 1.0, "video": strength}, protocol=protocol))
    for kind in SAVED:
        shown = [text for picture in draw(kind, read(tmp_path)) for text in texts(picture)]
        for label in ("concat", "arl", "lfm-h"):
            found = [text for text in shown if label in text and "×" not in text]
            assert found, kind
            assert all("TEST" in text for text in found), kind


def test_fifty_runs_fit(tmp_path: Path) -> None:
    for i in range(50):
        write_run(tmp_path, f"method-{i:02d}", {"audio": 1 + i / 50, "video": 0.5}, seeds=(1, 2), samples=30)
    runs = read(tmp_path)
    for kind in ("curves", "bars", "pareto", "critical-difference"):
        shown = "\n".join(texts(only(draw(kind, runs))))
        assert all(f"method-{i:02d}" in shown for i in range(50)), kind
    pages = draw("dynamics", runs[:12])
    assert [picture.file for picture in pages] == ["dynamics-demo-part-1", "dynamics-demo-part-2"]
    shown = [text for picture in pages for text in texts(picture)]
    assert all(shown.count(run.facts.label) == 1 for run in runs[:12])


def test_groups_that_do_not_compare_get_a_picture_each(tmp_path: Path) -> None:
    for label in ("concat", "arl", "lfm-h"):
        write_run(tmp_path, label, {"audio": 1.0, "video": 0.5})
    write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, fingerprint="two")
    write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, dataset="other")
    pictures = draw("bars", read(tmp_path))
    assert [picture.file for picture in pictures] == ["bars-demo", "bars-demo-2", "bars-other"]
    assert pictures[1].caption.startswith("Not comparable with the first group of demo: data fingerprint")


def test_failed_and_single_seeds_are_said(tmp_path: Path) -> None:
    write_records(write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, seeds=(1,)))
    write_records(write_run(tmp_path, "arl", {"audio": 1.0, "video": 0.5}, seeds=(1, 2), failed={3: "loss"}))
    captions = {kind: draw(kind, read(tmp_path))[0].caption for kind in ("curves", "bars", "dynamics", "reliability")}
    assert all("arl seed 3" in text for text in captions.values())
    assert all("n = 2 seeds, but concat 1" in text for text in captions.values())
    assert "Runs with one seed have no band" in captions["curves"]
    assert "smallest to largest seed (too few seeds" in captions["curves"]
    assert "One seed: the interval says nothing about other seeds" in captions["bars"]
    alone = [run for run in read(tmp_path) if run.facts.label == "concat"]
    assert "One seed: no band." in draw("curves", alone)[0].caption


# ------------------------------------------------------------------------------------------------ command line


def test_kinds_and_formats_of_the_command_are_those_of_the_package() -> None:
    assert {kind.value for kind in Kind} == {*KINDS, "all"}
    assert OFFERED == FORMATS


def test_a_folder_of_pictures(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pictures"
    result = invoke("plot", "--runs", str(study), "-k", "bars", "-k", "pareto", "-o", str(out))
    names = ["bars-demo.png", "bars-demo.svg", "pareto-demo.png", "pareto-demo.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert result.stdout.split() == [str(out / name) for name in names]
    assert "n = 5 seeds each" in result.stderr


def test_a_file_decides_its_format(study: Path, tmp_path: Path) -> None:
    for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        invoke("plot", "--runs", str(study), "-k", "bars", "-o", str(tmp_path / f"one{suffix}"), "--dpi", "60")
        assert (tmp_path / f"one{suffix}").read_bytes().startswith(head)
    names = [run.name for run in some(study)]
    invoke("plot", *names, "--runs", str(study), "-k", "dynamics", "-o", str(tmp_path / "two.svg"))
    assert [path.name for path in sorted(tmp_path.glob("two*"))] == ["two-1.svg", "two-2.svg"]


def test_all_says_what_could_not_be_drawn(study: Path, tmp_path: Path) -> None:
    names = [run.name for run in some(study)]
    options = (*names, "--runs", str(study), "--cache", str(tmp_path / "none"), "--dpi", "50")
    result = invoke("plot", *options, "-k", "all", "-o", str(tmp_path / "all"), "-f", "png")
    assert "no embedding: An embedding needs the prepared features" in result.stderr
    kinds = {path.name.partition("-demo")[0] for path in (tmp_path / "all").iterdir()}
    assert kinds == set(SAVED)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-o", "x.jpg"), "no picture format"),
        (("-f", "gif"), "Unknown picture format 'gif'"),
        (("-f", ""), "Unknown picture format"),
        (("-k", "bars", "-k", "curves", "-o", "x.png"), "do not fit in one file"),
        (("-o", "/dev/null/x"), "cannot be written"),
        (("-o", "missing/x.png"), "cannot be written"),
        (("-m", "acuracy"), "Did you mean 'accuracy'"),
    ],
)
def test_refusals_before_any_work(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmbalError, match=message):
        invoke("plot", "nothing-there", "--runs", str(study), *args)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_read_is_a_finding(study: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "arl", {"audio": 1.0, "video": 0.5})
    broken = write_run(tmp_path / "runs", "concat", {"audio": 1.0, "video": 0.5})
    (broken / "seed-1" / "predictions-test.safetensors").write_bytes(b"torn")
    result = invoke("plot", "--runs", str(tmp_path / "runs"), "-o", str(tmp_path / "p.svg"), code=1)
    assert f"left out: {broken.name}" in result.stderr
    assert "arl" in (tmp_path / "p.svg").read_text()


def test_saving_by_suffix(study: Path, tmp_path: Path) -> None:
    picture = only(draw("bars", read(study)))
    for format in FORMATS:
        save(picture, tmp_path / f"p.{format}", 60)
        assert (tmp_path / f"p.{format}").read_bytes() == render(picture, format, 60)


def test_the_command_loads_matplotlib_only_when_it_draws() -> None:
    code = "import sys, mmbal_cli.cli.plot; sys.exit(bool({'matplotlib', 'numpy', 'scipy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_run_has_a_finished_seed(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 1.0}, seeds=(), failed={1: "loss"})
    for kind in SAVED:
        with pytest.raises(MmbalError):
            draw(kind, read(tmp_path))


def test_curves_of_a_label_that_appears_twice(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        folder = write_run(tmp_path, "arl", {"audio": 1.0, "video": 0.5}, config={"train": {"lr": rate}})
        write_records(folder, epochs=3)
    assert {"arl [lr=0.1]", "arl [lr=0.2]"} <= set(texts(only(draw("curves", read(tmp_path)))))
    assert curves.OVERLAID >= 2
