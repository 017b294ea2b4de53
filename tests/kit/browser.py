"""A real headless browser, where there is one: the DOM that it makes of a file, its complaints, and a picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
TIMEOUT_S = 120


def browser() -> str:
    """The browser to use: $MMBAL_BROWSER, else the first of `NAMES` on PATH; "" for none."""
    named = os.environ.get("MMBAL_BROWSER", "")
    return named or next((path for name in NAMES if (path := shutil.which(name))), "")


WHY_NOT = "no browser: neither MMBAL_BROWSER nor any of " + ", ".join(NAMES)


@dataclass(frozen=True)
class Opened:
    """What the browser said: its stdout and stderr."""

    out: str
    log: str

    @property
    def complaints(self) -> list[str]:
        """Lines of the page's console: errors of markup, policy violations, refused or failed requests."""
        return re.findall(r"CONSOLE:\d+\] \"(.*)\", source:", self.log)


def _open(path: Path, *flags: str) -> Opened:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser(), *FLAGS, f"--user-data-dir={profile}", *flags, path.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return Opened(done.stdout, done.stderr)


def dump_dom(path: Path, *flags: str) -> Opened:
    """The document as the browser has it after loading."""
    return _open(path, "--window-size=1200,900", "--dump-dom", *flags)


PROBE = """<script>window.onload=()=>{
const inside=e=>{for(let p=e.parentElement;p;p=p.parentElement)
if(['auto','hidden','scroll'].includes(getComputedStyle(p).overflowX))return true;return false};
const wide=[...document.querySelectorAll('body *')].filter(
e=>e.getBoundingClientRect().right>innerWidth+1&&!inside(e)).map(e=>e.tagName+'.'+e.className);
parent.postMessage({wide:wide.join(' '),scroll:document.documentElement.scrollWidth,window:innerWidth},'*')}</script>"""
FRAME = """<!DOCTYPE html><body><script>onmessage=e=>{for(const k in e.data)document.body.dataset[k]=e.data[k]}</script>
<iframe src="{name}" width="{width}" height="900" style="border:0"></iframe>"""


@dataclass(frozen=True)
class Width:
    """A page in a window: the window's width, that of its document, and the elements that stick out of it."""

    window: int
    document: int
    outside: str


def measure(path: Path, folder: Path, width: int) -> Width:
    """Measure a copy of the page without its policy, made in `folder`, in a frame of this width.

    The frame is there because a headless window is never narrower than 500 pixels.
    """
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", path.read_text(encoding="utf-8"))
    (folder / "probe.html").write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("{name}", "probe.html").replace("{width}", str(width)), encoding="utf-8")
    body = re.search(r"<body[^>]*>", dump_dom(frame, "--virtual-time-budget=20000").out)
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', body[0] if body else ""))
    return Width(int(found["window"]), int(found["scroll"]), found["wide"])


def screenshot(path: Path, png: Path, width: int = 1200, height: int = 900, *, dark: bool = False) -> Opened:
    """Write what a window of this size shows into `png`."""
    look = ["--blink-settings=preferredColorScheme=0"] if dark else []
    return _open(path, f"--window-size={width},{height}", f"--screenshot={png}", *look)
