"""The report card of written runs: saved predictions and records, against numbers counted by loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.report.card import document, lines, sheets
from mmbal_cli.report.card_parts import NOBODY, joined
from mmbal_cli.report.runs import read_predictions
from tests.kit.cards import call, cards, mean, only, text
from tests.kit.runs import CLASSES, predictions, write_predictions, write_run, write_study


def saved(folder: Path, seed: int, split: str = "test"):
    return read_predictions(folder / f"seed-{seed}" / f"predictions-{split}.safetensors", CLASSES)


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
    gap = next(cells for cells in shown.rows if cells[0].text == "concat")[shown.names.index("gap video")]
    assert (gap.text, gap.mark) == (f"{100 * found.mean:.2f}".replace("-", "−"), "below")


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
    assert first.high == pytest.approx(1.5 + 12.7062 * 0.5, abs=1e-3)  # t of one degree of freedom
    assert first.low == 0  # a ratio of probabilities is never below
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


def test_gaps_on_fewer_seeds_than_the_accuracies_beside_them_are_said(tmp_path: Path) -> None:
    concat = write_run(tmp_path, "concat", {"audio": 1.6, "video": 0.5}, seeds=(1, 2, 3))
    audio = write_run(tmp_path, "unimodal:audio", {"audio": 1.6}, seeds=(2, 3, 4))
    video = write_run(tmp_path, "unimodal:video", {"video": 1.1}, seeds=(1, 2, 3))
    assert "Gaps only on the seeds of both: concat audio n = 2." in text(cards(concat, audio, video))
    other = write_run(tmp_path / "other", "unimodal:audio", {"audio": 1.5}, seeds=(7,))
    assert "Gaps only on the seeds of both: concat audio n = 0." in text(cards(concat, other, video))
    assert "Gaps only on" not in text(cards(concat, video))


def test_two_seeds_of_a_few_samples_have_intervals_of_what_can_be(tmp_path: Path) -> None:
    concat = write_run(tmp_path, "concat", {"audio": 1.6, "video": 0.5}, seeds=(1, 2), samples=4)
    audio = write_run(tmp_path, "unimodal:audio", {"audio": 0.6}, seeds=(1, 2), samples=4)
    for key, found in only(cards(concat, audio)).numbers.items():
        if found.low is not None and found.high is not None:
            assert -1 <= found.low <= found.high <= 1, key


def test_the_records_of_one_seed_are_no_mean_over_two(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", {"audio": 1.6, "video": 0.5}, seeds=(1, 2))
    (folder / "seed-1" / "records.jsonl").write_text(
        '{"epoch": 1, "discrepancy/audio": 2.0, "discrepancy/video": 0.5}\n'
    )
    shown = text(cards(folder))
    assert "in which they were recorded; one seed, no interval." in shown
