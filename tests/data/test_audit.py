"""Planted leaks, imbalance and gaps are found, a clean set is clean; proposed splits keep groups whole."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mmbal_cli.data.audit import Audit, Finding, audit
from mmbal_cli.data.disjoint import propose
from mmbal_cli.data.manifest import Sample
from mmbal_cli.data.named import named_split
from mmbal_cli.data.near import ALL, comparable, exact_twins, near_twins
from tests.kit.cli import ROOT

LISTS = ROOT.parent / "shared" / "data" / "splits_ogmge"
CLASSES = ("no", "yes")
KINDS = {"audio": "audio", "text": "text"}


def clean(n: int = 60) -> list[Sample]:
    """n samples of each part, two classes, a group of four samples, other files and words for each."""
    samples = []
    for number, split in enumerate(("train", "val", "test")):
        for i in range(n):
            name = f"{split}{i}"
            values = {"audio": f"{name}.wav", "text": f"these are the words of {name}"}
            samples.append(Sample(name, split, i % 2, f"g{number}-{i // 4}", values))
    return samples


def changed(samples: Sequence[Sample], name: str, **what: object) -> list[Sample]:
    return [replace(s, **what) if s.id == name else s for s in samples]  # type: ignore[arg-type]


def digests(samples: Sequence[Sample], **same: str) -> dict[str, str]:
    """A digest of its own for each file, but for those in `same` {file: file}."""
    return {f"{s.id}.wav": f"digest of {same.get(s.id, s.id)}" for s in samples}


def rules(report: Audit) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in report.findings]


def one(report: Audit, rule: str) -> Finding:
    found = [finding for finding in report.findings if finding.rule == rule]
    assert len(found) == 1, report.findings
    return found[0]


def test_a_clean_set_is_clean() -> None:
    samples = clean()
    report = audit(samples, CLASSES, KINDS, digests(samples))
    assert report.findings == ()
    assert report.clean
    assert report.counts == {"train": 60, "val": 60, "test": 60}
    assert report.groups == {"train": 15, "val": 15, "test": 15}
    assert report.balance["yes"] == {"train": 30, "val": 30, "test": 30}
    assert report.looked_at == ("groups", "labels", "modalities", "texts", "source files")


def test_groups_in_two_parts_are_counted() -> None:
    samples = changed(changed(clean(), "test0", group="g0-0"), "val1", group="g0-3")
    found = [finding for finding in audit(samples, CLASSES, KINDS).findings if finding.rule == "group-overlap"]
    test, val = found
    assert (test.severity, test.count, test.total, test.examples) == ("error", 1, 16, ("g0-0",))
    assert "1 of 60 test samples are of a group that train has" in test.message
    assert (val.severity, val.examples) == ("warning", ("g0-3",))
    carved = audit(samples, CLASSES, KINDS, carved=True)
    assert any("validation was carved out of train" in finding.message for finding in carved.findings)


def test_samples_without_a_group_are_said() -> None:
    none = [replace(s, group="") for s in clean()]
    assert rules(audit(none, CLASSES, KINDS)) == [("note", "no-groups")]
    assert audit(none, CLASSES, KINDS).clean
    assert one(audit(changed(clean(), "val7", group=""), CLASSES, KINDS), "without-group").examples == ("val7",)


def test_the_same_bytes_are_found_across_parts_and_under_two_labels() -> None:
    samples = clean()
    report = audit(samples, CLASSES, KINDS, digests(samples, test1="train1", val5="val4", test3="val3"))
    copies = {f.message.partition(":")[2]: f for f in report.findings if f.rule == "duplicate-source"}
    assert [(f.severity, f.examples) for f in copies.values()] == [
        ("error", ("train1 (train) = test1 (test)",)),
        ("warning", ("val3 (val) = test3 (test)",)),
    ]
    conflict = one(report, "conflicting-label")
    assert (conflict.count, conflict.examples) == (1, ("val4 (no, val) = val5 (yes, val)",))


def test_other_parts_of_one_file_are_no_copies() -> None:
    samples = changed(clean(), "train0", values={"audio": "train0.wav#t=0,1", "text": "a"})
    samples = changed(samples, "test0", values={"audio": "train0.wav#t=1,2", "text": "b"})
    assert rules(audit(samples, CLASSES, KINDS, digests(samples))) == []
    samples = changed(samples, "test0", values={"audio": "train0.wav#t=0,1", "text": "b"})
    assert rules(audit(samples, CLASSES, KINDS, digests(samples))) == [("error", "duplicate-source")]


def test_the_same_words_are_found_whatever_their_case_and_spaces() -> None:
    samples = changed(clean(), "test1", values={"audio": "test1.wav", "text": "These  ARE the words of train0"})
    found = one(audit(samples, CLASSES, KINDS), "same-text")
    assert (found.severity, found.count, found.examples) == ("warning", 1, ("train0 (train) = test1 (test)",))
    assert "1 of them under another label" in found.message


def test_labels_out_of_balance_absent_or_shifted_are_found() -> None:
    many = [Sample(f"a{i}", "train", 0, f"a{i}", {}) for i in range(200)]
    few = [Sample(f"b{i}", "train", 1, f"b{i}", {}) for i in range(10)]
    test = [Sample(f"c{i}", "test", i % 2, f"c{i}", {}) for i in range(100)]
    report = audit([*many, *few, *test], CLASSES, {})
    assert rules(report) == [("warning", "imbalance"), ("warning", "label-shift")]
    assert "20.0 times" in one(report, "imbalance").message
    assert "total variation 0.45" in one(report, "label-shift").message
    unlearnt = audit([*many, *test], CLASSES, {})
    assert ("error", "class-absent") in rules(unlearnt)
    assert one(unlearnt, "class-absent").examples == ("yes",)
    small = audit([*many[:20], *(replace(s, label=1) for s in many[20:40]), *test[:3]], CLASSES, {})
    assert rules(small) == []  # three test samples prove no shift


def without(samples: Sequence[Sample], names: Mapping[str, str]) -> list[Sample]:
    return [
        replace(s, values={m: v for m, v in s.values.items() if names.get(s.id) not in (m, "all")}) for s in samples
    ]


def test_partial_modalities_and_samples_without_any_are_found() -> None:
    some = without(clean(), {f"{split}{i}": "audio" for split in ("train", "val", "test") for i in range(4)})
    report = audit(some, CLASSES, KINDS)
    assert rules(report) == [("note", "partial-modality")]
    assert report.present["audio"] == {"train": 0.9333, "val": 0.9333, "test": 0.9333}
    none = audit(without(clean(), {"test3": "all", "train9": "all"}), CLASSES, KINDS)
    found = one(none, "no-modality")
    assert (found.severity, found.count, found.examples) == ("warning", 2, ("train9", "test3"))
    assert "(1 train, 1 test)" in found.message
    told = audit(without(clean(), {f"test{i}": "audio" for i in range(40)}), CLASSES, KINDS)
    assert "depends on its split: 100.0% in train, 33.3% in test" in one(told, "uneven-modality").message
    class_told = {f"{split}{i}": "text" for split in ("train", "val", "test") for i in range(1, 60, 2)}
    told = audit(without(clean(), class_told), CLASSES, KINDS)
    assert "depends on its class: 100.0% in no, 0.0% in yes" in one(told, "uneven-modality").message


# ----------------------------------------------------------------------------------------- features


def planted() -> tuple[list[Sample], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """180 samples with an equal copy (train5 = test5), a near one (train6, test6), one equal in audio only
    (train7, test7), a silent pair (train8, test8), and an absent modality (text of train9 and test9)."""
    rng = np.random.default_rng(0)
    audio, video = rng.normal(size=(180, 40)), rng.normal(size=(180, 3, 30))
    for x in (audio, video):
        x[125] = x[5]
        x[126] = x[6] + 1e-2 * rng.normal(size=x[6].shape)
    audio[127] = audio[7]
    audio[[8, 128]] = 0.25
    audio[129] = audio[9]
    audio[:, 3] = 7.0  # a column that says nothing
    features = {"audio": audio.astype("float16"), "text": video.astype("float32")}
    mask = {"audio": np.ones(180, bool), "text": np.ones((180, 3), bool)}
    mask["text"][[9, 129]] = False
    features["text"][[9, 129]] = 5.0
    features["audio"][[8, 128], 3] = 0.25
    return clean(), features, mask


def test_equal_and_near_features_are_found_apart() -> None:
    samples, features, mask = planted()
    report = audit(samples, CLASSES, KINDS, features=comparable(features, mask))
    found = {(f.rule, f.message.partition(":")[0]): f for f in report.findings}
    assert set(found) == {
        ("equal-features", "audio"),
        ("equal-features", "text"),
        ("equal-features", ALL),
        ("near-duplicate", "audio"),
        ("near-duplicate", "text"),
        ("near-duplicate", ALL),
        ("constant-features", "audio"),
    }
    assert found["equal-features", "audio"].count == 3
    whole = found["equal-features", ALL]
    assert (whole.severity, whole.count) == ("error", 2)  # the pair without text is the same in all that it has
    assert whole.examples[0] == "train5 (train) ~ test5 (test): 1.000000"
    close = found["near-duplicate", ALL]
    assert (close.severity, close.count) == ("error", 1)
    assert close.examples[0].startswith("train6 (train) ~ test6 (test): 0.999")
    assert found["equal-features", "text"].severity == "warning"
    assert found["constant-features", "audio"].count == 2


def test_blocks_find_what_all_pairs_have() -> None:
    rng = np.random.default_rng(1)
    x = {"a": rng.normal(size=(1500, 3)).astype("float32"), "b": rng.normal(size=(1500, 2)).astype("float32")}
    data = comparable(x, {m: np.ones(1500, bool) for m in x})
    first, second = np.arange(1100, 1500), np.arange(1100)
    found = near_twins(data, first, second, 0.99)
    for m, unit in data.unit.items():
        cosine = unit[first] @ unit[second].T
        assert found[m].pairs == int((cosine >= 0.99).sum()) > 0
        assert found[m].rows == set(first[(cosine >= 0.99).any(1)].tolist())
    both = np.minimum(
        data.unit["a"][first] @ data.unit["a"][second].T, data.unit["b"][first] @ data.unit["b"][second].T
    )
    assert found[ALL].pairs == int((both >= 0.99).sum()) > 0
    assert exact_twins(data, first, second)["a"].pairs == 0


def test_features_without_a_difference_are_no_twins() -> None:
    x = {"a": np.ones((30, 4), "float32"), "b": np.zeros((30, 2, 3), "float32")}
    data = comparable(x, {"a": np.ones(30, bool), "b": np.zeros((30, 2), bool)})
    found = near_twins(data, np.arange(20, 30), np.arange(20), 0.999)
    assert all(
        not twins.rows for twins in [*found.values(), *exact_twins(data, np.arange(20, 30), np.arange(20)).values()]
    )
    assert data.constant == {"a": 30, "b": 0}


# ----------------------------------------------------------------------------------------- proposals


def population(groups: int, seed: int = 0) -> tuple[list[str], list[int], list[str]]:
    """Groups of 1 to 60 samples with their own class shares, five classes."""
    rng = np.random.default_rng(seed)
    ids, labels, names = [], [], []
    for g in range(groups):
        size = int(rng.integers(1, 60))
        labels += rng.choice(5, size, p=rng.dirichlet(np.full(5, 2.0))).tolist()
        ids += [f"g{g}s{i}" for i in range(size)]
        names += [f"g{g}"] * size
    return ids, labels, names


@pytest.mark.parametrize("seed", range(3))
def test_a_proposal_keeps_groups_whole_and_the_wanted_sizes(seed: int) -> None:
    ids, labels, groups = population(120, seed)
    found = propose(ids, labels, groups, {"train": 70, "val": 10, "test": 20}, seed)
    homes: dict[str, set[str]] = {}
    for name, group in zip(ids, groups, strict=True):
        homes.setdefault(group, set()).add(found[name])
    assert all(len(parts) == 1 for parts in homes.values())
    sizes, whole = Counter(found.values()), len(ids)
    assert abs(sizes["test"] / whole - 0.2) < 0.01
    assert abs(sizes["val"] / whole - 0.1) < 0.01
    shares = Counter(labels)
    for part in ("val", "test"):
        own = Counter(label for name, label in zip(ids, labels, strict=True) if found[name] == part)
        assert all(abs(own[c] / sizes[part] - shares[c] / whole) < 0.03 for c in shares), (part, own)


def test_a_proposal_depends_on_seed_and_samples_only() -> None:
    ids, labels, groups = population(40)
    shares = {"train": 8, "val": 1, "test": 1}
    found = propose(ids, labels, groups, shares)
    order = np.random.default_rng(3).permutation(len(ids))
    again = propose(*([column[i] for i in order] for column in (ids, labels, groups)), shares)  # type: ignore[arg-type]
    assert again == found
    assert propose(ids, [4 - label for label in labels], groups, dict(reversed(shares.items()))) == found
    assert propose(ids, labels, groups, shares, seed=1) != found
    assert named_split("s", found, "").hash == named_split("s", again, "").hash


def test_a_proposal_of_few_or_no_groups() -> None:
    ids = [f"i{n}" for n in range(30)]
    few = propose(ids, [0] * 30, ["a"] * 28 + ["b", "c"], {"train": 1, "val": 1, "test": 1})
    assert set(few.values()) == {"train", "val", "test"}
    own = propose(ids, [n % 3 for n in range(30)], [""] * 30, {"train": 70, "val": 10, "test": 20})
    assert Counter(own.values()) == {"train": 21, "val": 3, "test": 6}


# ------------------------------------------------------------------------------------ the real lists


def listed(name: str, group: slice) -> list[Sample]:
    with (LISTS / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    return [Sample(r["id"], r["split"], names.index(r["label"]), r["id"][group], {}) for r in rows]


@pytest.mark.skipif(not LISTS.is_dir(), reason="the published lists are not beside the project")
def test_every_speaker_of_cremad_is_on_both_sides() -> None:
    samples = listed("cremad_ogmge.csv", slice(0, 4))
    report = audit(samples, tuple("abcdef"), {})
    found = one(report, "group-overlap")
    assert (found.severity, found.count, found.total) == ("error", 91, 91)
    assert "744 of 744 test samples" in found.message
    columns = [s.id for s in samples], [s.label for s in samples], [s.group for s in samples]
    parts = propose(*columns, {"train": 81, "val": 9, "test": 10})
    homes = {(s.group, parts[s.id]) for s in samples}
    assert len(homes) == 91
    split = named_split("speaker", parts, "")
    assert split.hash == "454532bcc73744cb150d5553a4623ce9afd93788b8a4e1a45c9b6b9a54a39791"
    assert split.counts == {"train": 6048, "val": 656, "test": 738}


@pytest.mark.skipif(not LISTS.is_dir(), reason="the published lists are not beside the project")
def test_kinetics_sounds_shares_no_source_video() -> None:
    report = audit(listed("kinetics_sounds_ogmge.csv", slice(0, 11)), tuple(map(str, range(31))), {})
    assert report.counts == {"train": 14799, "val": 0, "test": 2597}
    assert not report.overlaps
