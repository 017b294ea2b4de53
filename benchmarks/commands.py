"""Whole commands as a user waits for them: `python benchmarks/commands.py [--repeats 5]`.

- `mmbal --help` (target: at most 0.3 s)
- a second `mmbal prepare demo` (target: at most 1 s)
- `mmbal train` on the demo data, five seeds against one (target: at most 2.5 times), start-up included
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Prepare the demo data in a temporary folder, then time the commands in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:

        def seconds(*args: str) -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "mmbal_cli", *args], check=True, capture_output=True, cwd=folder)
            return time.perf_counter() - start

        print(f"prepare demo, first time: {seconds('prepare', 'demo'):.1f} s (clips are generated)")
        again = [seconds("prepare", "demo") for _ in range(repeats)]
        shown = [seconds("--help") for _ in range(repeats)]
        print(f"mmbal --help: {statistics.median(shown):.2f} s (target 0.3)")
        print(f"prepare demo, up to date: {statistics.median(again):.2f} s (target 1)")
        for method in ("concat", "arl"):
            train = ("train", "-m", method, "-d", "demo", "--overwrite", "--seeds")
            pairs = [(seconds(*train, "1"), seconds(*train, "5")) for _ in range(repeats)]
            one, five = (statistics.median(values) for values in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"train {method}: one seed {one:.1f} s, five seeds {five:.1f} s, ratio {ratio:.2f} (target 2.5)")


if __name__ == "__main__":
    main()
