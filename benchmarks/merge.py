"""One markdown table from one suite on several data sets: `python benchmarks/merge.py demo=a.json digits=b.json`.

The files are those of `mmbal suite table NAME --dataset D --format json`. A column for each data set, a row for each
method: accuracy in percent, mean ± sample standard deviation over seeds, with the marks of the suite's own table.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

MARKS = {"best": "**{}**", "tied": "≈ {}"}


def rows(path: Path) -> dict[str, str]:
    """{row: cell} of one suite's JSON; of the unimodal models only the best one."""
    document: dict[str, Any] = json.loads(path.read_text())
    found = {}
    for row in document["blocks"][0]["rows"]:
        label, cell = row["label"], row["metrics"]["accuracy"]
        if label.startswith("unimodal:"):
            if not row["best_unimodal"]:
                continue
            label, chosen = "best unimodal", label.partition(":")[2]
        else:
            tuned = re.search(r" \(tuned: (.*); best of (\d+) on validation\)", label)
            chosen = tuned[1] if tuned else ""
            label = label.replace(tuned[0], f" (tuned, best of {tuned[2]})") if tuned else label
        if cell["sd"] is None:  # fewer than two seeds have finished
            continue
        text = f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}"
        text = MARKS.get(cell["mark"], "{}").format(text)
        found[label] = f"{text} ({chosen})" if chosen else text
    return found


def main() -> None:
    """Print the table."""
    columns = {name: rows(Path(file)) for name, file in (each.split("=", 1) for each in sys.argv[1:])}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    print(f"| method | {' | '.join(columns)} |\n| :-- |{' --: |' * len(columns)}")
    for label in labels:
        print(f"| {label} | {' | '.join(column.get(label, '–') for column in columns.values())} |")


if __name__ == "__main__":
    main()
