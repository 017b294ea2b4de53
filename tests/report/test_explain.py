"""Every finding where it must be, and none where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.report.explain import Finding, comparable, document, explain, explained, markdown
from mmbal_cli.report.runs import Run, read_run
from tests.kit.cli import Inside
from tests.kit.runs import CLASSES, PROTOCOL, predictions, write_predictions, write_run

SEEDS = (1, 2, 3, 4, 5)
N, EPOCHS = 600, 40
STRENGTHS = {"audio": 1.6, "video": 0.7}
Column = Callable[[int, int], float | None]  # epoch, seed


def answers(accuracy: float, seed: int = 0, confidence: float | None = None, samples: int = N) -> np.ndarray:
    """Probabilities [N,C] that are right on that share of the samples, and as sure as they are right unless told."""
    labels = np.arange(samples) % len(CLASSES)
    order = np.random.default_rng(0).permutation(samples)  # hard samples are hard for all
    order[:20] = np.random.default_rng(seed).permutation(order[:20])
    place = np.empty(samples, int)
    place[order] = np.arange(samples)
    right = place >= round((1 - accuracy) * samples)
    answer = np.where(right, labels, (labels + 1) % len(CLASSES))
    sure = max(accuracy, 0.5) if confidence is None else confidence
    probs = np.full((samples, len(CLASSES)), (1 - sure) / (len(CLASSES) - 1))
    probs[np.arange(samples), answer] = sure
    return probs.astype(np.float32)


def save(folder: Path, seed: int, probs: np.ndarray, parts: Mapping[str, np.ndarray], **more: np.ndarray) -> None:
    labels = more.pop("labels", np.arange(len(probs)) % len(CLASSES))
    arrays = {"probs": probs, "logits": np.log(probs), "labels": labels}
    arrays |= {f"logits/{m}": np.log(each) for m, each in parts.items()}
    arrays |= {f"present/{m}": np.ones(len(probs), np.uint8) for m in parts} | more
    for split in ("val", "test"):
        write_predictions(folder / f"seed-{seed}", split, arrays)


def recorded(folder: Path, columns: Mapping[str, Column], seeds: Sequence[int] = SEEDS, epochs: int = EPOCHS) -> None:
    for seed in seeds:
        rows = []
        for epoch in range(1, epochs + 1):
            row: dict[str, Any] = {"seed": seed, "epoch": epoch, "phase": "train", "lr": 0.01, "alive": True}
            rows.append(row | {name: column(epoch, seed) for name, column in columns.items()})
        (folder / f"seed-{seed}" / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ended(folder: Path, seed: int, **changes: Any) -> None:
    path = folder / f"seed-{seed}" / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HEALTHY: dict[str, Column] = {
    "train/loss": lambda e, s: 1.1 * 0.9**e,
    "train/nll": lambda e, s: 1.1 * 0.9**e,
    "val/accuracy": lambda e, s: 0.9 - 0.4 * 0.8**e,
    "val/nll": lambda e, s: 0.3 + 0.8 * 0.9**e,
    "grad/audio": lambda e, s: 0.5 + 0.01 * s,
    "grad/video": lambda e, s: 0.3 + 0.01 * s,
    "coef/k/audio": lambda e, s: 0.5 + 0.1 * np.sin(e + s),
    "coef/k/video": lambda e, s: 0.8 + 0.1 * np.cos(e + s),
}


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., list[Run]]:
    """A method that is better than all its references, whose modalities learn, with healthy records; and those."""

    def made(
        accuracy: float = 0.9,
        inside: Mapping[str, float] | None = None,
        confidence: float | None = None,
        columns: Mapping[str, Column] | None = None,
        seeds: Sequence[int] = SEEDS,
        **facts: Any,
    ) -> list[Run]:
        runs = []
        root = tmp_path / ("runs" if not (tmp_path / "runs").exists() else f"runs-{len(list(tmp_path.iterdir()))}")
        parts = {"audio": 0.72, "video": 0.6}
        rows = {"ours": (accuracy, inside or parts), "concat": (0.8, parts), "unimodal-ensemble": (0.78, parts)}
        rows |= {f"unimodal:{m}": (share, {m: share}) for m, share in parts.items()}
        for label, (right, heads) in rows.items():
            own = facts if label == "ours" else {}
            encoders = {"audio": "wav2vec2-base", "video": "clip-b32"}
            folder = write_run(root, label, STRENGTHS, samples=30, seeds=seeds, **own)
            _encoded(folder, encoders if "data" not in own else {})
            for seed in seeds:
                sure = confidence if label == "ours" else None
                save(folder, seed, answers(right, seed, sure), {m: answers(a, seed) for m, a in heads.items()})
                ended(folder, seed, best_epoch={"fused": 20 + seed})
            recorded(folder, {**HEALTHY, **((columns or {}) if label == "ours" else {})}, seeds)
            runs.append(folder)
        return [read_run(folder) for folder in runs]

    return made


def _encoded(folder: Path, encoders: Mapping[str, str]) -> None:
    facts = json.loads((folder / "run.json").read_text())
    facts["data"]["modalities"] = dict(encoders) or facts["data"]["modalities"]
    (folder / "run.json").write_text(json.dumps(facts))


def found(runs: list[Run]) -> dict[str, Finding]:
    """Findings by topic."""
    return {each.topic: each for each in explain(runs[0], runs)}


def again(runs: list[Run]) -> list[Run]:
    return [read_run(run.folder) for run in runs]


def test_a_healthy_run_has_no_finding(study: Callable[..., list[Run]]) -> None:
    runs = study()
    assert explain(runs[0], runs) == []
    assert explain(runs[0]) == []  # nothing to compare with is no finding
    assert "nothing remarkable" in markdown(explained(runs[0], runs))


# ------------------------------------------------------------------------------------------ records


def test_saturated_and_fixed_coefficients(study: Callable[..., list[Run]]) -> None:
    runs = study(columns={
        "coef/k/video": lambda e, s: 0.9**e if e < 12 else 1e-5,
        "coef/fixed": lambda e, s: 0.25,
        "coef/late": lambda e, s: 0.0 if e > EPOCHS - 3 else 0.4 + 0.01 * e,  # too short a rest to mean anything
        "coef/some": lambda e, s: 1.0 if e > 10 and s < 3 else 0.4 + 0.01 * e,  # in two of five seeds
    })  # fmt: skip
    several = [each for each in explain(runs[0], runs) if each.topic == "coefficient"]
    assert [each.severity for each in several] == ["notice", "info"]
    assert several[0].sentence == (
        "coef/k is saturated at 0: video from epoch 12 on (5 of 5 seeds). From there it is a constant."
    )
    assert several[1].sentence == "coef/fixed is 0.25 in every epoch (5 of 5 seeds)."
    assert several[0].evidence["columns"] == ["coef/k/video"]


def test_a_gradient_many_times_the_other(study: Callable[..., list[Run]]) -> None:
    runs = study(columns={
        "grad/audio": lambda e, s: 8.0,
        "grad/video": lambda e, s: 0.2,
        "train/nll/video": lambda e, s: 1.0,
    })  # fmt: skip
    finding = found(runs)["gradient"]
    assert "audio adapter is 40 times that of video" in finding.sentence
    assert "5 of 5 seeds" in finding.sentence
    assert "held back" in finding.sentence
    assert finding.evidence["ratio"] == pytest.approx([40.0] * 5)


def test_a_gradient_that_vanishes_because_all_is_learned_is_told_apart(study: Callable[..., list[Run]]) -> None:
    runs = study(columns={
        "grad/video": lambda e, s: 0.6**e + 1e-4,
        "train/nll/video": lambda e, s: 0.7**e,
    })  # fmt: skip
    assert "has learned its samples and rests" in found(runs)["gradient"].sentence


def test_an_adapter_without_gradient_and_absent_records(study: Callable[..., list[Run]]) -> None:
    dead = found(study(columns={"grad/video": lambda e, s: 0.0}))["gradient"]
    assert "video in 100%" in dead.sentence
    assert dead.severity == "notice"
    stopped = found(study(columns={"grad/video": lambda e, s: 0.3 if e < 10 + s else 0.0}))["gradient"]
    assert (stopped.severity, stopped.sentence) == (
        "info",
        "The adapters get no gradient any more: video from epoch 13 on.",
    )
    # recorded in every third epoch only, as batches are probed
    runs = study(columns={"grad/video": lambda e, s: 0.3 if e % 3 == 0 else None})
    assert "gradient" not in found(runs)


def test_selected_epochs_at_the_ends(study: Callable[..., list[Run]]) -> None:
    runs = study()
    for seed, epoch in zip(SEEDS, (40, 39, 40, 22, 40), strict=True):
        ended(runs[0].folder, seed, best_epoch={"fused": epoch})
    late = found(again(runs))["selected epoch"]
    assert (late.severity, "in 4 of 5 seeds" in late.sentence) == ("notice", True)
    for seed in SEEDS:
        ended(runs[0].folder, seed, best_epoch={"fused": 1})
    early = found(again(runs))["selected epoch"]
    assert (early.severity, "first of 40" in early.sentence) == ("warning", True)


def test_over_fitting(study: Callable[..., list[Run]]) -> None:
    finding = found(study(columns={"val/nll": lambda e, s: 0.4 + 0.02 * abs(e - 10)}))["over-fitting"]
    assert "lowest in epoch 10 (0.40 nats) and 0.98 at the end" in finding.sentence


def test_validation_that_rises_with_training_is_no_over_fitting(study: Callable[..., list[Run]]) -> None:
    rising: dict[str, Column] = dict.fromkeys(("val/nll", "train/nll", "train/loss"), lambda e, s: 0.4 + 0.02 * e)
    assert "over-fitting" not in found(study(columns=rising))


def test_a_step_of_the_learning_rate_that_came_too_late(study: Callable[..., list[Run]]) -> None:
    assert "after the selected epoch of 5 of 5" in found(
        study(columns={"lr": lambda e, s: 0.01 if e < 30 else 0.001})
    )["learning rate"].sentence  # fmt: skip
    other = study(columns={"lr": lambda e, s: 0.01 if e < 15 else 0.001})
    assert "learning rate" not in found(other)
    rising = study(columns={"lr": lambda e, s: 0.01 if e < 30 else 0.1})
    assert "The learning rate rises to 0.1" in found(rising)["learning rate"].sentence
    smooth = study(columns={"lr": lambda e, s: 0.01 * 0.9**e})
    assert "learning rate" not in found(smooth)


def test_failed_seeds_are_named_with_the_epoch(study: Callable[..., list[Run]]) -> None:
    runs = study()
    ended(runs[0].folder, 2, status="failed", reason="loss was not finite at step 90")
    recorded(runs[0].folder, HEALTHY, [2], epochs=8)
    finding = found(again(runs))["failed seed"]
    assert finding.severity == "warning"
    assert (
        "Seed 2 failed (loss was not finite at step 90, in epoch 8): every figure rests on 4 of 5" in finding.sentence
    )


def test_damaged_records_and_predictions_are_said(study: Callable[..., list[Run]]) -> None:
    runs = study()
    (runs[0].folder / "seed-1" / "records.jsonl").write_text("{}\nnothing\n{}\n")
    (runs[0].folder / "seed-3" / "predictions-test.safetensors").write_bytes(b"torn")
    topics = [each.topic for each in explain(read_run(runs[0].folder), runs)]
    assert topics.count("unreadable") == 2


# ----------------------------------------------------------------------------------------- facts


def test_protocol_method_and_encoders(study: Callable[..., list[Run]]) -> None:
    legacy = study(protocol={**PROTOCOL, "name": "legacy"}, note="reconstructed", deviates=["switches are ours"])
    topics = found(legacy)
    assert "selected on TEST" in topics["protocol"].sentence
    assert "ours is reconstructed: switches are ours." in topics["method"].sentence
    assert comparable(legacy[0], legacy) == ()  # never beside sealed runs
    hand = study()
    _encoded(hand[0].folder, {"audio": "logmel-stats", "video": "clip-b32"})
    assert "Hand-made features: audio (logmel-stats)." in found([read_run(hand[0].folder)])["encoders"].sentence


def test_one_seed_has_no_spread(study: Callable[..., list[Run]]) -> None:
    assert "no spread" in found(study(seeds=(1,)))["one seed"].sentence


def test_a_run_without_a_finished_seed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "concat", STRENGTHS, seeds=())
    (folder / ".job-1-2").mkdir()
    topics = {each.topic for each in explain(read_run(folder))}
    assert {"no result", "unfinished"} <= topics


def test_missing_classes_and_missing_modalities(study: Callable[..., list[Run]]) -> None:
    runs = study()
    labels = np.arange(N) % 2  # the third class has no sample
    present = np.ones(N, np.uint8)
    present[: N // 4] = 0
    for seed in SEEDS:
        probs = answers(0.9, seed)
        save(runs[0].folder, seed, probs, {"audio": probs, "video": probs}, labels=labels, **{"present/video": present})
    several = explain(read_run(runs[0].folder))
    lost = [each for each in several if each.topic == "missing classes"]
    assert "Validation has 2 of 3 classes (none of joy)" in lost[0].sentence
    assert [each.severity for each in lost] == ["notice", "info"]
    missing = next(each for each in several if each.topic == "missing modality")
    assert "video is missing in 25.0% of the test samples (150 of 600)" in missing.sentence


# ----------------------------------------------------------------------------------------- scores


def test_a_modality_that_learns_nothing_or_too_little(study: Callable[..., list[Run]]) -> None:
    chance = found(study(inside={"audio": 0.72, "video": 0.33}))
    assert chance["modality at chance"].severity == "warning"
    assert "video by itself inside the model is right in 33.0%" in chance["modality at chance"].sentence
    assert "alone it has 60.0%" in chance["modality at chance"].sentence
    assert "no more than the largest class is of them (33.3%)" in chance["modality at chance"].sentence
    above = found(study(inside={"audio": 0.72, "video": 0.35}))["modality at chance"].sentence
    assert "35.0% of the samples, which may be luck: the largest class is 33.3% of them, 95% interval" in above
    assert "modality starved" not in chance
    starved = found(study(inside={"audio": 0.70, "video": 0.45}))["modality starved"]
    assert "video lacks 15.0 points inside the model: 45.0%" in starved.sentence


def test_without_its_own_run_a_modality_at_chance_is_a_notice(study: Callable[..., list[Run]]) -> None:
    runs = study(inside={"audio": 0.72, "video": 0.33})
    alone = {each.topic: each.severity for each in explain(runs[0], runs[:2])}
    assert alone["modality at chance"] == "notice"


def test_a_method_inside_the_noise_of_its_references(study: Callable[..., list[Run]]) -> None:
    near = found(study(accuracy=0.805))
    assert "inside the noise of concat" in near["concat"].sentence
    assert near["concat"].severity == "notice"
    assert "late fusion" not in near or near["late fusion"].severity == "notice"
    below = found(study(accuracy=0.6))
    assert {below[topic].severity for topic in ("concat", "late fusion", "best unimodal")} == {"warning"}
    assert "the best unimodal run (unimodal:audio)" in below["best unimodal"].sentence


def test_references_and_unimodal_runs_are_not_held_against_themselves(study: Callable[..., list[Run]]) -> None:
    runs = study()
    for run in runs[1:]:
        topics = {each.topic for each in explain(run, runs)}
        assert "concat" not in topics
        assert not (run.facts.label.startswith("unimodal:") and "best unimodal" in topics)


def test_runs_of_other_data_are_no_references(study: Callable[..., list[Run]]) -> None:
    runs = study(accuracy=0.5, split="another")
    assert comparable(runs[0], runs) == ()
    assert not {"concat", "best unimodal", "late fusion"} & set(found(runs))


def test_runs_scored_on_other_samples_are_no_references(study: Callable[..., list[Run]]) -> None:
    """Rows of other samples, or another number of them, cannot be paired."""
    runs = study(accuracy=0.5)
    assert {"concat", "late fusion"} <= set(found(runs))
    for samples in (60, 30):
        for seed in SEEDS:
            ids = [f"other-{i}" for i in range(samples)]
            arrays = predictions(seed, STRENGTHS, samples=samples)
            write_predictions(runs[0].folder / f"seed-{seed}", "test", arrays, ids)
        assert not {"concat", "best unimodal", "late fusion"} & set(found(again(runs)))


def test_seeds_that_disagree_and_one_that_collapsed(study: Callable[..., list[Run]]) -> None:
    runs = study()
    parts = {m: answers(0.7) for m in STRENGTHS}
    for seed, accuracy in zip(SEEDS, (0.84, 0.88, 0.92, 0.95, 0.98), strict=True):
        save(runs[0].folder, seed, answers(accuracy, seed), parts)
    disagree = found(runs)["seeds disagree"]
    assert "84.0% to 98.0%" in disagree.sentence
    for seed in SEEDS:
        save(runs[0].folder, seed, answers(0.5 if seed == 4 else 0.9, seed), parts)
    collapsed = found(runs)["collapsed seed"]
    assert (collapsed.severity, collapsed.sentence[:21]) == ("warning", "Seed 4 has 50.0%, the")


@pytest.mark.parametrize(("confidence", "word"), [(0.99, "Over-confident by 9.0"), (0.7, "Under-confident by 20.0")])
def test_confidence(study: Callable[..., list[Run]], confidence: float, word: str) -> None:
    assert word in found(study(confidence=confidence))["calibration"].sentence


def test_constant_answers_and_classes_that_never_come(study: Callable[..., list[Run]]) -> None:
    runs = study()
    for seed in SEEDS:
        probs = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (N, 1))
        save(runs[0].folder, seed, probs, {m: answers(0.7) for m in STRENGTHS})
    topics = found(runs)
    assert "5 of 5 seeds give one answer" in topics["constant answer"].sentence
    assert "(anger: seed 1, 2, 3, 4, 5)" in topics["constant answer"].sentence
    assert "class never answered" not in topics  # said once
    for seed in SEEDS:
        probs = answers(0.95, seed)
        probs[:, 2] = 0.0
        save(runs[0].folder, seed, probs / probs.sum(1, keepdims=True) + 1e-9, {m: answers(0.7) for m in STRENGTHS})
    assert "1 of 3 classes are never the answer" in found(runs)["class never answered"].sentence


def test_a_handful_of_samples_is_not_judged(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path, label, STRENGTHS, samples=6)) for label in ("ours", "concat")]
    topics = found(runs)
    assert "has 6 samples" in topics["few samples"].sentence
    assert not {"concat", "calibration", "seeds disagree", "modality at chance"} & set(topics)


def test_validation_and_test_that_differ_more_than_their_samples(study: Callable[..., list[Run]]) -> None:
    runs = study()
    labels = np.arange(N) % len(CLASSES)
    for seed in SEEDS:
        arrays = {"probs": answers(0.99, seed), "logits": np.log(answers(0.99, seed)), "labels": labels}
        write_predictions(runs[0].folder / f"seed-{seed}", "val", arrays)
    finding = found(runs)["validation and test"]
    assert "99.0% on validation (600 samples) and 90.0% on test (600): -9.0 points" in finding.sentence


# ---------------------------------------------------------------------------------------- output


def test_documents_are_valid_and_the_gravest_comes_first(study: Callable[..., list[Run]]) -> None:
    runs = study(accuracy=0.6, columns={"coef/k/video": lambda e, s: 0.0})
    result = explained(runs[0], runs)
    order = [each.severity for each in result.findings]
    assert order == sorted(order, key=("warning", "notice", "info").index)
    text = json.dumps(document(result), allow_nan=False)
    assert json.loads(text)["report"] == "explain"
    assert len(json.loads(text)["compared_with"]) == 4


def test_the_command(study: Callable[..., list[Run]], tmp_path: Path, inside: Inside) -> None:
    runs = study(accuracy=0.6)
    name = runs[0].folder.name
    shown = inside("explain", name, cwd=tmp_path)
    assert "below that of concat" in " ".join(shown.stdout.split())
    assert "Compared with 4 comparable runs" in shown.stdout
    only = json.loads(inside("explain", name, runs[1].folder.name, "-f", "json", cwd=tmp_path).stdout)
    assert only["compared_with"] == ["concat"]
    inside("explain", name, "-o", "found.md", cwd=tmp_path)
    assert (tmp_path / "found.md").read_text().startswith(f"**{name}")
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "run.json").write_text("{")
    assert "left out: torn" in inside("explain", name, cwd=tmp_path).stderr
    assert "There is no run" in inside("explain", "none", cwd=tmp_path, code=3).stderr
