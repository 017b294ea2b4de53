"""The report page: self-contained, the same bytes for the same runs, honest words, and right in a real browser."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.errors import UsageError
from mmbal_cli.report import page as pages
from mmbal_cli.report import page_parts
from mmbal_cli.report.compare import compare
from mmbal_cli.report.contrast import Against
from mmbal_cli.report.page import Asked, Page, page
from mmbal_cli.report.page_html import escape
from mmbal_cli.report.page_words import conclusions
from mmbal_cli.report.runs import find_runs, read_run
from tests.kit.browser import WHY_NOT, browser, dump_dom, measure, screenshot
from tests.kit.cli import invoke
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.runs import PROTOCOL, write_run, write_study
from tests.kit.trained import train

SECTIONS = (
    *("summary", "comparison", "pictures", "card", "robustness", "calibration", "dynamics", "findings"),
    *("protocol", "papers", "provenance"),
)
EVIL = "<script>alert('1')</script>\"'&\x1b[31m\n"
VOID = {"meta", "br", "img"}


class Read(HTMLParser):
    """Tags with their attributes, and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


def made(root: Path, **asked: Any) -> Page:
    runs = [read_run(folder) for folder in find_runs([], root)]
    return page(runs, Asked(**{"fresh": False, "metrics": ("accuracy",), **asked}))


def section(html: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>\n(?=<section id=|</main>)', html, re.DOTALL)
    assert found, f"no section {key}"
    return Read(found[0]).text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study") / "runs"
    write_study(root, seeds=(1, 2, 3))
    return root


@pytest.fixture(scope="module")
def study(root: Path) -> Page:
    return made(root)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, where words alone are judged."""
    monkeypatch.setattr(page_parts, "_drawn", lambda *_: "")


def test_page_has_all_sections_and_every_link_leads_somewhere(study: Page) -> None:
    read = Read(study.html)
    assert read.open == []
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert [key for key in ids if key in SECTIONS] == list(SECTIONS)
    assert [key for key, count in Counter(ids).items() if count > 1] == []
    links = [a.get("href") or a.get("xlink:href") or "" for a in read.all("a", "use")]
    assert len(links) > len(SECTIONS)
    assert [link for link in links if not link.startswith("#") or link[1:] not in ids] == []
    assert set(study.missing) == {"Robustness"}
    assert "without them (--no-fresh)" in study.missing["Robustness"]


def test_page_needs_nothing_else_and_runs_nothing(study: Page) -> None:
    read = Read(study.html)
    loading = (
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "image",
        "base",
        "form",
        "audio",
        "video",
        "import",
    )
    assert read.all(*loading) == []
    assert [a for _, a in read.tags if any(name.startswith("on") for name in a)] == []
    assert [a for _, a in read.tags if "src" in a or str(a.get("href", "#"))[0] != "#"] == []
    assert set(re.findall(r"url\((.)", study.html)) <= {"#"}
    assert "@import" not in study.html
    (policy,) = (a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_everything_has_a_name_for_those_who_cannot_see_it(study: Page) -> None:
    read = Read(study.html)
    pictures, tables = read.all("svg"), read.all("table")
    assert len(pictures) >= 5
    assert len(read.all("figcaption")) == len(pictures)
    assert [a for a in pictures if a.get("role") != "img" or not a.get("aria-label")] == []
    assert len(tables) >= 4
    assert len([a for a in read.all("th") if not a.get("scope")]) == 0
    assert [a for a in read.all("div") if a.get("tabindex") and not a.get("aria-label")] == []


def test_equal_runs_give_equal_bytes_wherever_they_lie(study: Page, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "elsewhere" / "deeper")
    assert made(tmp_path / "elsewhere" / "deeper").html == study.html
    assert str(root) not in study.html


def test_the_summary_says_what_the_comparison_found(study: Page, root: Path) -> None:
    runs = [read_run(folder) for folder in find_runs([], root)]
    (block,) = compare(runs, ["accuracy"], against=Against("concat")).blocks
    rows = {row.label: row for row in block.rows}
    best = max(block.rows, key=lambda row: row.mean("accuracy") or 0)
    words = section(study.html, "summary")
    assert f"{best.label} has the best mean accuracy on test: {100 * (best.mean('accuracy') or 0):.2f}%" in words
    contrast = rows["arl"].cells["accuracy"].contrast
    assert contrast is not None
    verdict = "is distinguishable" if contrast.significant else "is not distinguishable"
    assert f"Against concat. arl, the best balancing method, {verdict}" in words
    assert f"{100 * (contrast.difference.mean or 0):+.2f} points" in words
    assert "Holm's correction for 6 comparisons" in words
    tied = [row.label for row in block.rows if row.cells["accuracy"].mark == "tied"]
    assert all(label in words for label in tied)
    assert "Against unimodal:audio, the best unimodal model." in words


def test_a_method_inside_the_noise_is_not_called_better(tmp_path: Path) -> None:
    for label, fused in (("unimodal:audio", None), ("concat", 1.70), ("arl", 1.71)):
        write_run(tmp_path, label, {"audio": 1.6, "video": 0.5}, fused=fused, seeds=(1, 2, 3))
    runs = [read_run(folder) for folder in find_runs([], tmp_path)]
    (block,) = compare(runs, ["accuracy"], against=Against("concat")).blocks
    words = Read(conclusions(block, False)).text
    assert "arl, the best balancing method, is not distinguishable from it" in words
    assert "0 are distinguishably better" in words or "Of 1 balancing" not in words


def test_the_protocol_says_what_the_numbers_rest_on(study: Page, root: Path) -> None:
    facts = read_run(find_runs([], root)[0]).facts
    words = section(study.html, "protocol")
    for part in (
        f"fingerprint {facts.data.fingerprint[:16]}",
        f"hash {facts.data.split_hash[:16]}",
        "selection: validation accuracy",
        "3 for each run (1-3)",
        "hierarchical bootstrap over seeds and samples",
        "differences to concat: paired-bootstrap",
        "6 comparisons",
        "all runs: lr 0.01",
        "audio: logmel-stats, video: hog-motion: descriptors",
    ):
        assert part in words, part
    runs = section(study.html, "provenance")
    for folder in find_runs([], root):
        assert folder.name in runs
        assert read_run(folder).facts.spec[:16] in runs


@pytest.mark.usefixtures("plain")
def test_deviations_and_papers_are_listed_and_settings_that_differ(tmp_path: Path) -> None:
    strengths = {"audio": 1.6, "video": 0.5}
    write_run(tmp_path, "concat", strengths, seeds=(1, 2), config={"train": {"lr": 0.01, "epochs": 5}})
    arl = {"paper": "Wei, ICCV 2025", "deviates": ["M > 2 by pairs is ours"], "note": "reconstructed"}
    write_run(tmp_path, "arl", strengths, seeds=(1, 2), config={"train": {"lr": 0.02, "epochs": 5}}, **arl)
    write_run(tmp_path, "sum", strengths, seeds=(1, 2), config={"train": {"lr": 0.01, "epochs": 5}})
    html = made(tmp_path).html
    assert "arl (reconstructed) Wei, ICCV 2025 M > 2 by pairs is ours" in section(html, "papers")
    assert "lr 0.01, but arl (reconstructed) 0.02" in section(html, "protocol")
    assert "all runs: epochs 5" in section(html, "protocol")


@pytest.mark.usefixtures("plain")
def test_texts_of_users_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    classes = (EVIL, "b<b>", "c&c")
    for label in ("concat", f"arl{EVIL}"):
        write_run(tmp_path, label, {"audio": 1.6, "video": 0.5}, seeds=(1, 2), failed={3: EVIL}, classes=classes,
                  dataset="demo", note=EVIL, deviates=[EVIL], paper=EVIL,
                  config={"train": {EVIL: EVIL}})  # fmt: skip
    html = made(tmp_path, title=EVIL).html
    read = Read(html)
    assert read.all("script") == []
    assert "\x1b" not in html
    assert "<script>alert" in read.text
    assert escape(EVIL) == "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&quot;&#x27;&amp;\\x1b[31m\\n"


@pytest.mark.usefixtures("plain")
def test_runs_selected_on_test_are_stamped_everywhere_and_said_in_red(tmp_path: Path) -> None:
    strengths = {"audio": 1.6, "video": 0.5}
    write_run(tmp_path, "concat", strengths, seeds=(1, 2))
    write_run(tmp_path, "arl", strengths, seeds=(1, 2), protocol={**PROTOCOL, "name": "legacy"})
    html = made(tmp_path).html
    assert '<p class="alarm" role="alert">SELECTED ON TEST: arl (selected on TEST).' in html
    for key in ("summary", "comparison", "protocol", "provenance"):
        assert "arl (selected on TEST)" in section(html, key), key
    assert "Not comparable with the runs above: epochs selected on TEST, not on validation." in section(html, "summary")


@pytest.mark.usefixtures("plain")
def test_parts_that_need_models_are_made_with_them_and_say_why_without(tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch": 16, "width": 8, "lr": 0.05}
    write_prepared(tmp_path / "cache", feature_set(2, n=60, easy=0.7), name="two", **settings)
    train(tmp_path, "concat")
    whole = made(tmp_path / "runs", fresh=True, cache=tmp_path / "cache")
    assert whole.missing == {}
    assert "nothing could be measured" not in section(whole.html, "card")
    assert re.search(r"audio .*\bvideo", section(whole.html, "robustness"))
    gone = made(tmp_path / "runs", fresh=True, cache=tmp_path / "gone")
    for key in ("card", "robustness"):
        assert "mmbal prepare two" in section(gone.html, key), section(gone.html, key)
    assert str(tmp_path) not in gone.html


@pytest.mark.usefixtures("plain")
def test_unfinished_unreadable_and_single_runs_give_a_page_that_says_so(tmp_path: Path) -> None:
    alone = write_run(tmp_path, "arl", {"audio": 1.6, "video": 0.5}, seeds=(1,), failed={2: "loss was not finite"})
    html = made(tmp_path).html
    assert "one seed, no sd" in section(html, "summary")
    assert "No unimodal model" in section(html, "summary")
    assert "1 failed seed (named below)" in Read(html).text
    assert "No differences to a baseline" in Read(html).text
    (alone / "seed-1" / "predictions-test.safetensors").write_bytes(b"torn")
    torn = made(tmp_path)
    assert list(torn.unreadable) == [alone.name]
    assert "could not be read and is left out" in Read(torn.html).text
    assert "No run has a finished seed with readable predictions." in section(torn.html, "comparison")
    shutil.rmtree(alone / "seed-1")
    failed = made(tmp_path).html
    assert "No run has a finished seed" in section(failed, "summary")
    assert "Seed 2 failed (loss was not finite" in section(failed, "findings")


@pytest.mark.usefixtures("plain")
def test_runs_of_two_data_sets_stand_apart(tmp_path: Path) -> None:
    for dataset in ("one", "two"):
        for label in ("concat", "arl"):
            write_run(tmp_path, label, {"audio": 1.6, "video": 0.7}, seeds=(1, 2), dataset=dataset, fingerprint=dataset)
    html = made(tmp_path).html
    assert "<h1>Multimodal balancing on one and two</h1>" in html
    assert section(html, "summary").count("Against concat.") == 2
    assert re.search("one: concat, arl.*two: concat, arl", section(html, "protocol"))


@pytest.mark.usefixtures("plain")
def test_many_runs_limit_the_long_parts_and_say_so(tmp_path: Path) -> None:
    for i in range(9):
        write_run(tmp_path, f"method-{i}", {"audio": 1.6}, fused=1.0 + i / 10, seeds=(1, 2))
    write_run(tmp_path, "concat", {"audio": 1.6}, fused=1.2, seeds=(1, 2))
    html = made(tmp_path).html
    assert "Shown are the references and the 6 best others by accuracy: 7 of 10 runs." in section(html, "calibration")
    assert "Shown are concat and the 3 best others by accuracy: 4 of 10 runs." in section(html, "calibration")
    assert all(f"method-{i}" in section(html, "comparison") for i in range(9))


def test_a_baseline_that_is_asked_for_must_be_there(root: Path) -> None:
    with pytest.raises(UsageError, match="nobody"):
        made(root, baseline="nobody")


# ------------------------------------------------------------------------------------------------- command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Asked]]:
    """Calls of `page`, which makes an empty one."""
    calls: list[tuple[list[str], Asked]] = []

    def fake(runs: Any, asked: Asked, progress: Any, unreadable: Any) -> Page:
        calls.append(([run.name for run in runs], asked))
        progress(pages.steps(runs, asked), "done")
        return Page("<html>", {}, unreadable)

    monkeypatch.setattr(pages, "page", fake)
    return calls


def test_command_takes_runs_or_all_of_them_and_a_run_named_like_a_subcommand(
    root: Path, tmp_path: Path, asked: list[tuple[list[str], Asked]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    invoke("report", "--runs", str(root), "-o", str(out))
    invoke("report", next(root.glob("*arl*")).name, "--runs", str(root), "-o", str(out), "--no-fresh", "-m", "nll")
    shutil.copytree(next(root.glob("*concat*")), tmp_path / "card")
    monkeypatch.chdir(tmp_path)
    invoke("report", "./card", "--title", "t", "--baseline", "concat")
    assert [len(names) for names, _ in asked] == [7, 1, 1]
    assert (asked[0][1].fresh, asked[1][1].fresh) == (True, False)
    assert asked[1][1].metrics == ("nll",)
    assert (asked[2][1].title, asked[2][1].baseline) == ("t", "concat")
    assert out.read_text() == "<html>"
    assert (tmp_path / "report.html").is_file()


def test_command_refuses_before_the_work_what_it_could_not_write(
    root: Path, tmp_path: Path, asked: list[tuple[list[str], Asked]]
) -> None:
    for place in (tmp_path, tmp_path / "none" / "page.html"):
        with pytest.raises(UsageError, match=r"cannot be written|is a folder"):
            invoke("report", "--runs", str(root), "-o", str(place))
    assert asked == []


def test_subcommands_and_help_stay_reachable(root: Path) -> None:
    shown = invoke("report", "--help").output
    for word in ("[RUN]...", "--out", "--no-fresh", "card", "robustness", "calibration", "dynamics"):
        assert word in shown, word
    assert "report.html" not in invoke("report", "dynamics", "--help").output
    assert "validation accuracy by epoch" in invoke("report", "dynamics", "--runs", str(root)).output


# ------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def file(study: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not browser():
        pytest.skip(WHY_NOT)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(study.html)
    return path


def test_browser_shows_every_section_and_complains_of_nothing(file: Path, study: Page) -> None:
    opened = dump_dom(file)
    read = Read(opened.out[opened.out.index("<html") :])
    assert [a["id"] for a in read.all("section") if "id" in a] == list(SECTIONS)
    for tag in ("table", "svg", "figure", "th", "td", "li"):
        assert len(read.all(tag)) == len(Read(study.html).all(tag)), tag
    assert opened.complaints == []


def test_browser_would_complain_of_a_script_or_a_request(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        file.read_text().replace("</main>", "<img src='http://example.com/x.png'><script>1</script></main>")
    )
    assert len(dump_dom(broken).complaints) == 2


@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_wider_than_the_window(file: Path, tmp_path: Path, width: int) -> None:
    found = measure(file, tmp_path, width)
    assert (found.window, found.outside) == (width, "")
    assert found.document <= width


def test_something_too_wide_would_be_seen(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(file.read_text().replace("</main>", "<p class=broad style='width:30rem'>x</p></main>"))
    assert "P.broad" in measure(broken, tmp_path, 400).outside


def test_pictures_of_the_page_are_not_blank_and_dark_is_dark(file: Path, tmp_path: Path) -> None:
    from PIL import Image

    shades = {}
    for name, dark in (("light", False), ("dark", True)):
        screenshot(file, tmp_path / f"{name}.png", 1200, 2400, dark=dark)
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert pixels.shape == (2400, 1200)
        assert len(np.unique(pixels)) > 50
        assert (pixels[:, 100:1100].std(axis=1) > 0).mean() > 0.3
        shades[name] = float(np.median(pixels))
    assert shades["light"] > 200
    assert shades["dark"] < 60
