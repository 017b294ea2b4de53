"""Twitter-2017 in small: the same formats as Twitter-2015, in the folders of the clone, and other invented tweets."""

from __future__ import annotations

from pathlib import Path

from tests.kit.minis.twitter2015 import pitfalls, write_pictures, write_tsv, write_txt

FIRST = 8000000


def build(root: Path) -> None:
    """absa_data/twitter/, twitter2017_images/; Twitter-2015 lies beside it and must not be taken."""
    write_tsv(root / "absa_data/twitter", FIRST)
    write_tsv(root / "absa_data/twitter2015")
    write_pictures(root / "twitter2017_images", FIRST)
    write_pictures(root / "twitter2015_images")


def build_named(root: Path) -> None:
    """twitter2017/ with the raw lists, twitter_subimages/."""
    write_txt(root / "twitter2017", FIRST)
    write_pictures(root / "twitter_subimages", FIRST)


VARIANTS = {"named": build_named}
PITFALLS = tuple(pitfalls("absa_data/twitter", "twitter2017_images", FIRST))
