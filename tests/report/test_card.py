"""The report card: of written runs by counting loops, of trained ones against predictions made one by one."""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mmbal_cli.cli.card import card as command
from mmbal_cli.engine.changes import absent
from mmbal_cli.engine.opened import open_run
from mmbal_cli.report import card_model
from mmbal_cli.report.card import Card, RunCard, card, document, lines, sheets
from mmbal_cli.report.card_parts import NOBODY, joined
from mmbal_cli.report.card_probe import probe_hits
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.metrics import METRICS
from mmbal_cli.report.runs import read_predictions, read_run
from tests.kit.cli import mmbal
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.runs import CLASSES, predictions, write_predictions, write_run, write_study

NOWHERE = Path("no-cache")
PARTS = ("accuracy", "inside", "coalition", "shapley", "interaction", "utilisation", "discrepancy", "gradient share",
         "who was right", "oracle", "class")  # fmt: skip
WAYS = ("masked", "zeros", "mean", "resampled")
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def cards(*folders: Path, cache: Path = NOWHERE, fresh: bool = False, split: str = "test") -> list[Card]:
    return card([read_run(folder) for folder in folders], cache, split, "cpu", fresh=fresh)


def only(made: list[Card]) -> RunCard:
    (one,) = made
    (row,) = one.rows
    return row


def mean(row: RunCard, *key: str) -> float:
    found = row.get(*key)
    assert found is not None, key
    assert found.mean is not None
    return found.mean


def text(made: list[Card], full: bool = False) -> str:
    parts = []
    for sheet in (sheet for each in made for sheet in sheets(each, 2, full)):
        parts += [sheet.title, sheet.caution, *sheet.heads, *sheet.notes]
        parts += [entry.text for row in sheet.rows for entry in row]
    return "\n".join(parts)


def saved(folder: Path, seed: int, split: str = "test"):
    return read_predictions(folder / f"seed-{seed}" / f"predictions-{split}.safetensors", CLASSES)


# ------------------------------------------------------------------------------------------ saved predictions


def test_gaps_are_paired_differences_to_the_run_of_one_modality(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    made = cards(*study.values())
    (one,) = made
    assert [row.label for row in one.rows][:2] == ["unimodal-ensemble", "concat"]
    row = next(row for row in one.rows if row.label == "concat")
    gaps = []
    for seed in range(1, 6):
        inside, alone = saved(study["concat"], seed), saved(study["unimodal:video"], seed)
        hits = [each.logits["video"].argmax(1) == each.labels for each in (inside, alone)]
        gaps.append(np.mean(hits[0]) - np.mean(hits[1]))
    found = row.get("inside", "gap declared", "video")
    assert found is not None
    assert found.mean == pytest.approx(np.mean(gaps))
    assert found.sd == pytest.approx(np.std(gaps, ddof=1))
    assert (found.n, found.over) == (5, "seeds and samples")
    assert found.high is not None
    assert found.high < 0
    assert mean(row, "inside", "alone", "video") == pytest.approx(mean(row, "inside", "declared", "video") - found.mean)
    shown = sheets(one, 2)[0]
    assert shown.rows[0][0].text == "each alone"
    gap = next(cells for cells in shown.rows if cells[0].text == "concat")[list(shown.heads).index("gap video")]
    assert (gap.text, gap.mark) == (f"{100 * found.mean:.2f}", "below")


def test_without_the_run_of_one_modality_the_gap_is_a_dash_and_the_command_is_named(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    made = cards(study["concat"], study["arl"], study["unimodal:audio"])
    row = made[0].rows[0]
    assert row.get("inside", "gap declared", "audio")
    assert row.get("inside", "gap declared", "video") is None
    shown = text(made)
    assert "unimodal:video on the same data and samples is not among these runs" in shown
    assert "`mmbal train --method unimodal --dataset demo --seeds 5`" in shown
    other = write_run(tmp_path, "unimodal:video", {"video": 1.0}, fingerprint="two")
    assert all(row.get("inside", "gap declared", "video") is None for row in cards(study["concat"], other)[0].rows)


def test_a_reference_with_the_same_settings_comes_first_and_other_settings_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, "concat", {"audio": 1.0, "video": 1.0}, config={"train": {"lr": 1, "clip": None}})
    other = write_run(tmp_path, "unimodal:audio", {"audio": 1.0}, config={"train": {"lr": 2, "clip": None}})
    assert "trained with other settings (lr)" in text(cards(run, other))
    same = write_run(tmp_path, "unimodal:audio", {"audio": 1.4}, config={"train": {"lr": 1, "clip": None}})
    for order in ((run, other, same), (same, run, other)):
        assert cards(*order)[0].rows[0].alone == {"audio": same.name}


def test_who_was_right_and_the_oracles_by_loops(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, fused=1.3)
    row = only(cards(folder))
    counts: dict[tuple[str, bool], list[float]] = {}
    best, joint, accuracy = [], [], []
    for seed in row.seeds:
        each = saved(folder, seed)
        tally: dict[tuple[str, bool], int] = {}
        for i, y in enumerate(each.labels):
            who = joined(m for m in ("audio", "video") if each.logits[m][i].argmax() == y)
            key = who, bool(each.probs[i].argmax() == y)
            tally[key] = tally.get(key, 0) + 1
        for key, count in tally.items():
            counts.setdefault(key, []).append(count / len(each.labels))
        best.append(sum(n for (who, _), n in tally.items() if who != NOBODY) / len(each.labels))
        joint.append(1 - tally.get((NOBODY, False), 0) / len(each.labels))
        accuracy.append(sum(n for (_, right), n in tally.items() if right) / len(each.labels))
    for (who, right), shares in counts.items():
        what = "fused right" if right else "fused wrong"
        assert mean(row, "who was right", what, who) == pytest.approx(sum(shares) / 5)
    keys = row.among("who was right", "share")
    assert {key.of for key in keys} == {"audio", "video", "audio+video", "none"}
    assert sum(mean(row, *key) for key in keys) == pytest.approx(1)
    assert mean(row, "oracle", "oracle") == pytest.approx(np.mean(best))
    assert mean(row, "oracle", "gap to oracle") == pytest.approx(np.mean(best) - np.mean(accuracy))
    assert mean(row, "oracle", "headroom") == pytest.approx(np.mean(joint) - np.mean(accuracy))
    table = next(sheet for sheet in sheets(cards(folder)[0]) if "who was right" in sheet.title)
    assert [cells[0].text for cells in table.rows] == ["only audio", "only video", "both", "neither"]


def test_recalls_of_classes_and_the_worst_class_first(tmp_path: Path) -> None:
    from sklearn.metrics import recall_score

    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, fused=1.3)
    row = only(cards(folder))
    for c, name in enumerate(CLASSES):
        recalls = {}
        for of in ("fused", "audio", "video"):
            each = [saved(folder, seed) for seed in row.seeds]
            scores = [x.probs if of == "fused" else x.logits[of] for x in each]
            labels = [x.labels for x in each]
            pairs = zip(labels, scores, strict=True)
            found = [recall_score(y, s.argmax(1), labels=[c], average=None) for y, s in pairs]
            recalls[of] = np.mean(found)
            assert mean(row, "class", "recall", of, name) == pytest.approx(recalls[of])
        assert mean(row, "class", "range", "", name) == pytest.approx(abs(recalls["audio"] - recalls["video"]))
    table = sheets(cards(folder)[0])[-1]
    ranges = [float(cells[2].text.split()[0]) for cells in table.rows]
    assert ranges == sorted(ranges, reverse=True)


def test_samples_without_a_modality_do_not_count_for_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(1, 2))
    for seed in (1, 2):
        arrays = predictions(seed, {"audio": 1.2, "video": 0.6}, name="concat")
        arrays["present/video"] = (np.arange(120) >= 40).astype(np.uint8)
        arrays["logits/video"][:40] = np.nan
        write_predictions(folder / f"seed-{seed}", "test", arrays)
    row = only(cards(folder))
    assert row.having == {"audio": 120, "video": 80}
    each = [saved(folder, seed) for seed in (1, 2)]
    hits = [(x.logits["video"].argmax(1) == x.labels)[40:] for x in each]
    assert mean(row, "inside", "declared", "video") == pytest.approx(np.mean(hits))
    seen = [key.of for key in row.among("who was right", "share")]
    shares = [mean(row, "who was right", "share", of) for of in seen if "video" in of]
    assert sum(shares) == pytest.approx(np.mean(hits) * 80 / 120)


def test_records_give_the_course_of_discrepancy_and_shares_of_gradient_norms(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(1, 2))
    assert "no discrepancy in its records" in text(cards(folder))
    for seed in (1, 2):
        rows = [{"epoch": 1, "phase": "warm", "discrepancy/audio": 99, "grad/audio": 1, "grad/video": 1}]
        rows += [{"epoch": 2, "phase": "train"}]
        rows += [
            {"epoch": 3 + i, "phase": "train", "discrepancy/audio": d * seed, "discrepancy/video": 1 / (d * seed),
             "grad/audio": 3, "grad/video": g}
            for i, (d, g) in enumerate([(1.0, 1.0), (2.0, 3.0), (6.0, None)])
        ]  # fmt: skip
        (folder / f"seed-{seed}" / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    row = only(cards(folder))
    found = {when: mean(row, "discrepancy", when, "audio") for when in ("first", "middle", "last", "mean")}
    assert found == pytest.approx({"first": 1.5, "middle": 3.0, "last": 9.0, "mean": 4.5})
    assert mean(row, "gradient share", "mean", "audio") == pytest.approx((0.75 + 0.5) / 2)
    assert mean(row, "gradient share", "last", "video") == pytest.approx(0.5)
    first = row.get("discrepancy", "first", "audio")
    assert first is not None
    assert (first.n, first.over) == (2, "seeds")
    assert first.low == pytest.approx(1.5 - 12.7062 * 0.5, abs=1e-3)  # t of one degree of freedom
    assert not row.notes
    assert "discrepancy, first epoch" in text(cards(folder))


def test_damaged_records_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(1, 2))
    (folder / "seed-1" / "records.jsonl").write_text("{\n{}\n")
    (folder / "seed-2" / "records.jsonl").unlink()
    shown = text(cards(folder))
    assert "records of seed 1 cannot be read" in shown
    assert "records of seed 2 cannot be read" in shown


def test_one_seed_has_no_spread_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(3,))
    made = cards(folder)
    found = only(made).get("accuracy", "fused")
    assert found is not None
    assert (found.n, found.sd, found.over) == (1, None, "samples")
    assert "One seed, no spread over seeds, intervals over samples only: concat." in text(made)


def test_failed_seeds_are_named_and_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(1, 2), failed={3: "loss not finite"})
    made = cards(folder)
    assert only(made).seeds == (1, 2)
    assert "concat: seed 3 failed and is left out (loss not finite)." in text(made)
    assert "2/3" in text(made)
    dead = write_run(tmp_path, "arl", {"audio": 1.0, "video": 1.0}, seeds=(), failed={1: "loss not finite"})
    made = cards(folder, dead)
    assert [row.label for row in made[0].rows] == ["concat"]
    assert "no good seed (seed 1 failed: loss not finite)" in text(made)
    assert not made[0].complete


def test_other_data_splits_and_protocols_stand_apart(tmp_path: Path) -> None:
    strengths = {"audio": 1.2, "video": 0.6}
    one = write_run(tmp_path, "concat", strengths)
    others = [
        write_run(tmp_path, "concat", strengths, fingerprint="two"),
        write_run(tmp_path, "concat", strengths, split="two"),
        write_run(tmp_path, "concat", strengths, protocol={"selection": "last epoch"}),
        write_run(tmp_path, "concat", strengths, dataset="another"),
        write_run(tmp_path, "concat", strengths, ids=[f"x{i}" for i in range(120)], note="other samples"),
    ]
    made = cards(one, *others)
    assert len(made) == 6
    assert all(len(each.rows) == 1 for each in made)
    assert sum(bool(each.apart) for each in made) == 4
    assert "Not comparable with the tables above" in text(made)


def test_missing_predictions_leave_a_run_out_with_the_reason(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    (study["arl"] / "seed-2" / "predictions-test.safetensors").write_bytes(b"damaged")
    made = cards(*study.values())
    left = {name: why for each in made for name, why in each.left_out.items()}
    assert list(left) == [study["arl"].name]
    assert "cannot be read" in left[study["arl"].name]
    assert "cannot be read" in text(made)


def test_models_of_one_modality_alone_have_nothing_to_balance(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "unimodal:audio", {"audio": 1.2})
    made = cards(folder)
    assert only(made).mods == ("audio",)
    assert "there is nothing to balance" in text(made)
    assert len(sheets(made[0])) == 2  # the summary, and inside the model


def test_one_class_and_constant_predictions_give_no_wrong_number(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.2, "video": 0.6}, seeds=(1, 2))
    for seed in (1, 2):
        arrays = predictions(seed, {"audio": 1.0, "video": 1.0})
        arrays["labels"][:] = 1
        for name in ("probs", "logits", "logits/audio", "logits/video"):
            arrays[name][:] = [1, 0, 0]
        write_predictions(folder / f"seed-{seed}", "test", arrays)
    made = cards(folder)
    row = only(made)
    assert mean(row, "accuracy", "fused") == mean(row, "oracle", "headroom") == 0
    assert [key.of for key in row.among("who was right", "share")] == [NOBODY]
    assert made[0].absent == ("anger", "joy")
    assert "No sample here of anger, joy." in text(made)
    assert "3 of 4 patterns never occurred" in text(made)


# ------------------------------------------------------------------------------------------------ trained runs


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs: two and three modalities, some samples without one; and a graph over complete features."""
    folder = tmp_path_factory.mktemp("card")
    settings = {"epochs": 6, "batch": 16, "width": 8, "lr": 0.05}
    write_prepared(folder / "cache", feature_set(2, n=120, easy=0.7, absent=0.2), name="two", **settings)
    write_prepared(folder / "cache", feature_set(3, n=120, easy=0.7, absent=0.1), name="three", **settings)
    write_prepared(folder / "cache", feature_set(2, n=60, easy=0.7, flat=True), name="whole", **settings)
    mmbal("train", "-m", "concat,heads,unimodal", "-d", "two", "-s", "2", "-j", "1", cwd=folder)
    mmbal("train", "-m", "concat", "-d", "three", "-s", "2", "-j", "1", cwd=folder)
    mmbal("train", "-m", "bmlmi", "--set", "method.graph=snf", "-d", "whole", "-s", "1", "-j", "1", cwd=folder)
    return folder


def run_of(work: Path, name: str) -> Path:
    return next((work / "runs").glob(f"{name}-????????"))


@pytest.fixture(scope="module")
def made(work: Path) -> dict[str, list[Card]]:
    """The cards that need models, made once."""
    two = [run_of(work, f"two-{label}") for label in ("concat", "heads", "unimodal-audio", "unimodal-video")]
    return {
        "two": cards(*two, cache=work / "cache", fresh=True),
        "three": cards(run_of(work, "three-concat"), cache=work / "cache", fresh=True),
        "whole": cards(run_of(work, "whole-bmlmi"), cache=work / "cache", fresh=True),
    }


@pytest.mark.parametrize("name", ["two", "three"])
@pytest.mark.parametrize("way", WAYS)
def test_shapley_values_are_efficient(made: dict[str, list[Card]], name: str, way: str) -> None:
    row = made[name][0].rows[0]
    total = sum(mean(row, "shapley", "value", m, way) for m in row.mods)
    everybody = mean(row, "coalition", "accuracy", joined(row.mods), way)
    assert everybody == pytest.approx(mean(row, "accuracy", "fused"))
    assert total == pytest.approx(everybody - mean(row, "coalition", "accuracy", NOBODY, way))


@pytest.mark.parametrize(("name", "way"), [("two", "masked"), ("three", "masked"), ("three", "mean")])
def test_shapley_values_of_a_trained_run_by_orders(work: Path, made: dict[str, list[Card]], name: str, way) -> None:
    row = made[name][0].rows[0]
    opened = open_run(row.run.folder, work / "cache", device="cpu")

    def accuracy(there: frozenset[str]) -> float:
        gone = [m for m in row.mods if m not in there]
        found = fresh(opened, "test", absent(gone, way)).values()
        return float(np.mean([np.mean(each.probs.argmax(1) == each.labels) for each in found]))

    orders = list(permutations(row.mods))
    phi = dict.fromkeys(row.mods, 0.0)
    for order in orders:
        for i, m in enumerate(order):
            phi[m] += (accuracy(frozenset(order[: i + 1])) - accuracy(frozenset(order[:i]))) / len(orders)
    for m, value in phi.items():
        assert mean(row, "shapley", "value", m, way) == pytest.approx(value)
    values = np.array(list(phi.values()))
    degree = (values.max() - values.min()) / np.abs(values).sum()
    assert mean(row, "shapley", "imbalance", "", way) == pytest.approx(degree)


def test_utilisation_interaction_and_spread_follow_from_the_accuracies(made: dict[str, list[Card]]) -> None:
    row = made["two"][0].rows[0]
    for way in WAYS:
        a, v, both, none = (
            mean(row, "coalition", "accuracy", of, way) for of in ("audio", "video", "audio+video", NOBODY)
        )
        assert mean(row, "interaction", "index", "audio+video", way) == pytest.approx(both - a - v + none)
        assert mean(row, "utilisation", "rate", "audio", way) == pytest.approx((both - v) / both)
        assert mean(row, "utilisation", "difference", "audio+video", way) == pytest.approx((a - v) / both)
    values = [mean(row, "shapley", "value", "audio", way) for way in WAYS]
    assert mean(row, "shapley", "spread", "audio") == pytest.approx(max(values) - min(values))


def test_all_numbers_have_an_interval_around_them_and_n(made: dict[str, list[Card]]) -> None:
    for name, n in (("two", 2), ("three", 2), ("whole", 1)):
        for row in made[name][0].rows:
            for key, found in row.numbers.items():
                assert found.n == n, key
                if found.low is None or found.high is None:
                    assert key.part in ("discrepancy", "gradient share") or found.mean is None, key
                elif found.mean is not None and key.what not in ("imbalance", "share", "spread", "range"):
                    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9, key


def test_class_values_weighted_by_their_samples_are_those_of_all(made: dict[str, list[Card]]) -> None:
    row = made["three"][0].rows[0]
    for m in row.mods:
        whole = sum(n * mean(row, "class", "shapley", m, name) for name, n in row.sizes.items())
        assert whole / sum(row.sizes.values()) == pytest.approx(mean(row, "shapley", "value", m, "masked"))


def test_a_probe_is_the_regression_of_scikit_learn_on_the_adapter_features(work: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from mmbal_cli.report.probe import CANDIDATES

    opened = open_run(run_of(work, "two-concat"), work / "cache", device="cpu")
    found = probe_hits(opened, "test")["audio"]
    rows = {split: opened.feed.rows[split] for split in ("train", "test")}
    mask = opened.feed.mask["audio"]
    assert mask is not None
    order = np.argsort(opened.ids("test"))
    for s, seed in enumerate(opened.seeds):
        has = {split: mask[rows[split]].numpy() for split in rows}
        x = {split: opened.features(split)["audio"][s].numpy()[has[split]] for split in rows}
        y = {split: opened.feed.y[rows[split]].numpy()[has[split]] for split in rows}
        scale = StandardScaler().fit(x["train"])
        candidates = []
        for C in CANDIDATES:
            model = LogisticRegression(C=C, max_iter=1000, tol=1e-6).fit(scale.transform(x["train"]), y["train"])
            hits = np.full(len(rows["test"]), np.nan)
            hits[has["test"]] = model.predict(scale.transform(x["test"])) == y["test"]
            candidates.append(hits[order])
        assert np.isnan(found[seed]).tolist() == (~has["test"][order]).tolist()
        assert any(np.array_equal(found[seed], each, equal_nan=True) for each in candidates)


def test_a_card_says_where_declared_logits_come_from(made: dict[str, list[Card]]) -> None:
    sources = {row.label: row.source for row in made["two"][0].rows}
    assert sources == {
        "concat": "each modality's term of fusion concat",
        "heads": "heads that the method has for each modality",
    }
    assert "Declared logits of heads: heads that the method has" in text(made["two"])


def test_a_transductive_model_is_asked_in_the_ways_that_it_can_answer(made: dict[str, list[Card]]) -> None:
    row = only(made["whole"])
    assert row.get("shapley", "value", "audio", "masked") is None
    assert row.get("shapley", "value", "audio", "zeros") is not None
    assert any("modalities cannot be taken away as 'masked'" in text for text in row.notes)
    assert "modalities cannot be taken away as 'masked'" in text(made["whole"])


def test_too_many_modalities_are_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_model, "MOST_MODALITIES", 2)
    row = only(cards(run_of(work, "three-concat"), cache=work / "cache", fresh=True))
    assert row.get("shapley", "value", "audio", "masked") is None
    assert row.get("inside", "probe", "audio") is not None
    assert any("3 modalities have 8 coalitions, too many" in note for note in row.notes)


def test_predictions_that_the_models_no_longer_make_are_said(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "two-concat"
    shutil.copytree(run_of(work, "two-concat"), folder)
    one, two = (folder / f"seed-{seed}" / "model.safetensors" for seed in (1, 2))
    one.write_bytes(two.read_bytes())
    row = only(cards(folder, cache=work / "cache", fresh=True))
    assert any("now answer otherwise than in their saved predictions" in note for note in row.notes)


# ------------------------------------------------------------------------------------------ the command line


def test_the_command_shows_a_summary_of_many_and_all_tables_of_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    runs = [run_of(work, f"two-{label}").name for label in ("concat", "heads", "unimodal-audio", "unimodal-video")]
    many, one = call(*runs), call(runs[0])
    assert "each alone" in many.stdout
    assert "who was right" not in many.stdout
    for title in ("inside the model", "owes to each", "what training gave", "who was right", "headroom", "each class"):
        assert title in one.stdout
    assert "who was right" in call(*runs, "--full").stdout
    assert "val, 40 samples" in call(runs[0], "--split", "val", "--no-fresh").stdout


def test_machine_formats_hold_every_number(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    name = run_of(work, "two-concat").name
    found = json.loads(call(name, "--format", "json").stdout)
    assert (found["schema"], found["report"], len(found["cards"])) == (1, "card", 1)
    row = found["cards"][0]["rows"][0]
    table = list(csv.DictReader(io.StringIO(call(name, "--format", "csv").stdout)))
    assert len(table) == len(row["numbers"])
    for line, number in zip(table, row["numbers"], strict=True):
        assert [line[key] for key in ("part", "what", "of", "at")] == [number[k] for k in ("part", "what", "of", "at")]
        assert (float(line["mean"]) if line["mean"] else None) == number["mean"]
    assert {way for number in row["numbers"] if (way := number["at"]) in WAYS} == set(WAYS)
    for kind in ("md", "latex"):
        assert "headroom" in call(name, "--format", kind).stdout


def test_features_that_are_gone_cost_only_what_needs_them(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    name = run_of(work, "two-concat").name
    result = call(name, "--cache", "elsewhere", code=1)
    assert "who was right" in result.stdout
    assert "its models cannot be asked again" in " ".join(result.stderr.split())
    assert "mmbal prepare" in result.stderr
    assert "owes to each" not in result.stdout
    assert call(name, "--cache", "elsewhere", "--no-fresh").stderr.count("cannot be asked") == 0


def test_damaged_weights_are_named(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two-concat"
    shutil.copytree(run_of(work, "two-concat"), folder)
    (folder / "seed-1" / "model.safetensors").write_bytes(b"damaged")
    result = call(folder, "--cache", work / "cache", code=1)
    assert "cannot be read" in result.stderr
    assert "who was right" in result.stdout


def test_an_unreadable_run_is_left_out_and_found(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    content = json.loads((study["arl"] / "run.json").read_text()) | {"schema": 9}
    (study["arl"] / "run.json").write_text(json.dumps(content))
    result = call(*study.values(), "--no-fresh", code=1)
    assert "schema 9" in result.stderr
    assert "lfm-h" in result.stdout


def test_documents_and_lines_keep_to_their_heads(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    (one,) = cards(*study.values())
    table = lines(one)
    assert {len(line) for line in table} == {len(table[0])}
    found = document(one)
    json.dumps(found, allow_nan=False)
    assert set(found["references"]) == {"unimodal:audio", "unimodal:video"}
    assert [row["label"] for row in found["rows"]] == [row.label for row in one.rows]


def test_every_number_is_defined_in_the_documents(made: dict[str, list[Card]]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    defined = {part: text.partition(f"`{part}`")[2] or text.partition(f"`{part} / ")[2] for part in PARTS}
    for each in made.values():
        for key in each[0].rows[0].numbers:
            assert f"`{key.part} / {key.what}`" in text or f"`{key.what}`" in defined[key.part], key
    for name in METRICS:
        assert f"| `{name}` |" in text
