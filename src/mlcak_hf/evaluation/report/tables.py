"""A comparison as a rich table for the terminal and as files."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..comparison import Comparison, Row
from .figure import draw_comparison
from .wording import floor, footer, interval, number, row_name, statements, title, warnings

#: Columns of the table: metric, title (with the terminal's line breaks), decimals. Columns without values are left out.
COLUMNS = (
    ("auroc_global", "AUROC\nglobal", 3),
    ("auroc_local_macro", "AUROC\nlocal macro", 3),
    ("average_precision_global", "AP", 3),
    ("sensitivity_at_90_specificity_global", "Sens.\n90 %\nspec.", 3),
    ("brier_global", "Brier", 3),
    ("calibration_error_global", "ECE", 3),
    ("attention_ratio", "Atten-\ntion on\nboxes", 2),
)


def rich_table(comparison: Comparison) -> Table:
    """Make a table for the terminal, one row per model, the interval below its value.

    Args:
        comparison ([`Comparison`]):
            What to show.

    Returns:
        `rich.table.Table`
    """
    table = Table(
        title=Text("\n".join([title(comparison), *warnings(comparison)]), "italic"),
        caption="\n".join(footer(comparison)),
        caption_justify="left",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # 80 columns hold all numbers; a long name wraps instead.
    table.add_column("Model", overflow="fold", min_width=10)
    columns = _columns(comparison)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(Text(row_name(row)), *(_terminal_cell(row, key, decimals) for key, _, decimals in columns))
    return table


def markdown(comparison: Comparison) -> str:
    """Write the table, the differences, the AUROC of every finding and the notes as Markdown.

    Args:
        comparison ([`Comparison`]):
            What to write.

    Returns:
        `str`
    """
    columns = _columns(comparison)
    headings = [heading.replace("-\n", "").replace("\n", " ") for _, heading, _ in columns]
    cells = [[row_name(row), *(_cell(row, key, decimals) for key, _, decimals in columns)] for row in comparison.rows]
    lines = [part for line in warnings(comparison) for part in (f"**{_escape(line)}**", "")]
    lines += _markdown_table(["Model", *headings], cells)
    differences = statements(comparison)
    if differences:
        lines += ["", "Differences (paired, same draws):", "", *(f"- {_escape(line)}" for line in differences)]
    rows = [row for row in comparison.rows if "auroc_local_macro" in row.metrics]
    if rows:
        counts = {name: comparison.class_counts[name] for name in comparison.finding_names}
        found = [
            [name, f"{of.present} of {of.absent + of.present}", *(_cell(row, f"auroc/{name}") for row in rows)]
            for name, of in counts.items()
            if of.present and of.absent
        ]
        heading = ["Finding", "Present", *map(row_name, rows)]
        lines += ["", "AUROC per finding:", "", *_markdown_table(heading, found)]
    lines += ["", *(f"{_escape(line)}  " for line in footer(comparison))]
    return "\n".join(lines).rstrip() + "\n"


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


def print_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write a comparison with [`write_report`], and print its table and its differences."""
    written = write_report(comparison, folder)
    console = Console()
    console.print(rich_table(comparison))
    found = statements(comparison)
    lines = ["", "Differences (paired, same draws):", *(f"  {line}" for line in found)] if found else []
    lines += ["", f"Written: {', '.join(map(str, written))}"]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table, the first column at the left, the others at the right."""
    lines = [f"| {' | '.join(map(_escape, cells))} |" for cells in (headings, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(headings) - 1), *lines[1:]]


def _columns(comparison: Comparison) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.metrics for row in comparison.rows)]


def _terminal_cell(row: Row, key: str, decimals: int) -> Text:
    estimate = row.metrics.get(key)
    if estimate is None:
        return Text("-")
    if key.startswith("auroc"):
        below = interval(estimate).strip("[]").replace(", ", "–")
        return Text(number(estimate, decimals).replace("± ", "±")).append(f"\n{below}", style="dim")
    # In narrow columns, the deviation goes below, and of the floor only the 95th percentile.
    below = floor(row, key).rpartition("–")[2]
    return Text(number(estimate, decimals).replace(" ± ", "\n±")).append(f"\n{below}" if below else "", style="dim")


def _cell(row: Row, key: str, decimals: int = 3) -> str:
    estimate = row.metrics.get(key)
    if estimate is None:
        return "-"
    # Only AUROCs show their interval, so that the table fits; the record has all intervals.
    beside = interval(estimate) if key.startswith("auroc") else floor(row, key)
    return f"{number(estimate, decimals)} {beside}".strip()


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
