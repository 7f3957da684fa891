"""The files of a comparison: its record, its Markdown and its figure."""

from __future__ import annotations

from pathlib import Path

from ..comparison import Comparison
from .figure import draw_comparison
from .tables import markdown


def write_report(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write `comparison.json`, `comparison.md` and `comparison.png`.

    Args:
        comparison ([`Comparison`]):
            What to write.
        folder (`str` or `Path`):
            Existing folder.

    Returns:
        `list[Path]`: The written files.
    """
    paths = [Path(folder) / f"comparison.{kind}" for kind in ("json", "md", "png")]
    comparison.to_json(paths[0])
    paths[1].write_text(markdown(comparison), encoding="utf-8")
    draw_comparison(comparison, paths[2])
    return paths
