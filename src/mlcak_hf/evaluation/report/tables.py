"""A comparison as text: a rich table for the terminal, Markdown for files."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..comparison import Comparison, Estimate, Row
from .wording import footer, interval, number, statements, title

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
#: Metrics shown with their interval, so that the table fits; JSON has all intervals.
WITH_INTERVAL = ("auroc_global", "auroc_local_macro")


def rich_table(comparison: Comparison) -> Table:
    """Make a table for the terminal, one row per model, the interval below its value.

    Args:
        comparison ([`Comparison`]):
            What to show.

    Returns:
        `rich.table.Table`
    """
    table = Table(
        title=title(comparison),
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
        cells = [_terminal_cell(row, key, decimals) for key, _, decimals in columns]
        table.add_row(_name(row), *cells)
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
    lines = [
        "| Model | " + " | ".join(heading.replace("-\n", "").replace("\n", " ") for _, heading, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in comparison.rows:
        cells = [_cell(row.metrics.get(key), decimals, key in WITH_INTERVAL) for key, _, decimals in columns]
        lines.append(f"| {_escape(_name(row))} | " + " | ".join(cells) + " |")
    differences = statements(comparison)
    if differences:
        lines += ["", "Differences (paired, same draws):", ""]
        lines += [f"- {_escape(line)}" for line in differences]
    lines += _finding_table(comparison)
    lines += ["", *(f"{_escape(line)}  " for line in footer(comparison))]
    return "\n".join(lines).rstrip() + "\n"


def _finding_table(comparison: Comparison) -> list[str]:
    """AUROC of every finding, with the number of images that have it."""
    undefined = {*comparison.unannotated_labels, *comparison.single_class_labels}
    names = [name for name in comparison.finding_names if name not in undefined]
    rows = [row for row in comparison.rows if any(f"auroc/{name}" in row.metrics for name in names)]
    if not rows:
        return []
    lines = [
        "",
        "AUROC per finding:",
        "",
        "| Finding | Present | " + " | ".join(_escape(_name(row)) for row in rows) + " |",
        "|---|---:|" + "---:|" * len(rows),
    ]
    for name in names:
        count = comparison.class_counts[name]
        cells = [_cell(row.metrics.get(f"auroc/{name}"), 3, True) for row in rows]
        lines.append(
            f"| {_escape(name)} | {count.present} of {count.absent + count.present} | " + " | ".join(cells) + " |"
        )
    return lines


def _columns(comparison: Comparison) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.metrics for row in comparison.rows)]


def _name(row: Row) -> str:
    return f"{row.name} ({len(row.runs)} runs)" if len(row.runs) > 1 else row.name


def _terminal_cell(row: Row, key: str, decimals: int) -> Text:
    estimate = row.metrics.get(key)
    if estimate is None:
        return Text("-")
    if key in WITH_INTERVAL:
        below = interval(estimate).strip("[]").replace(", ", "–")
        return Text(number(estimate, decimals).replace("± ", "±")).append(f"\n{below}", style="dim")
    # In narrow columns, the deviation goes below.
    return Text(number(estimate, decimals).replace(" ± ", "\n±"))


def _cell(estimate: Estimate | None, decimals: int, with_interval: bool) -> str:
    if estimate is None:
        return "-"
    return f"{number(estimate, decimals)} {interval(estimate) if with_interval else ''}".strip()


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
