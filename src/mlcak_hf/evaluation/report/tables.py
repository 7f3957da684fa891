"""A comparison as text: a rich table for the terminal, Markdown for model cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..comparison import format_interval

if TYPE_CHECKING:
    from ..comparison import Comparison, Estimate, Row

#: Columns of the table: key, title (broken where the terminal breaks it), decimals. One that no row has is left out.
COLUMNS = (
    ("auroc_global", "AUROC\nglobal", 3),
    ("auroc_local_macro", "AUROC\nlocal macro", 3),
    ("average_precision_global", "AP", 3),
    ("sensitivity_at_90_specificity_global", "Sens.\n90 %\nspec.", 3),
    ("brier_global", "Brier", 3),
    ("calibration_error_global", "ECE", 3),
    ("attention_ratio", "Atten-\ntion on\nboxes", 2),
)
#: The terminal shows intervals of these only, so that the table fits; JSON has them all.
WITH_INTERVAL = ("auroc_global", "auroc_local_macro")


def rich_table(comparison: Comparison) -> Table:
    """Rows are models; the interval stands under its value, "-" where a row has no such head."""
    where = " · ".join(
        str(comparison.context[key]) for key in ("dataset", "split") if comparison.context.get(key) is not None
    )
    table = Table(
        title=f"Comparison{': ' + where if where else ''}",
        caption="\n".join(comparison.footer()),
        caption_justify="left",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # 80 columns hold the numbers whole; a long name wraps instead.
    table.add_column("Model", overflow="fold", min_width=10)
    columns = _columns(comparison)
    for _, title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in comparison.rows:
        cells = [_terminal_cell(row, key, decimals) for key, _, decimals in columns]
        table.add_row(_name(row), *cells)
    return table


def markdown(comparison: Comparison) -> str:
    """Table with all its intervals, differences, AUROC per finding, and footer."""
    columns = _columns(comparison)
    lines = [
        "| Model | " + " | ".join(title.replace("-\n", "").replace("\n", " ") for _, title, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in comparison.rows:
        cells = [_cell(row.estimates.get(key), decimals, key in WITH_INTERVAL) for key, _, decimals in columns]
        lines.append(f"| {_escape(_name(row))} | " + " | ".join(cells) + " |")
    statements = comparison.noise_statements()
    if statements:
        lines += ["", "Differences (paired, same draws):", ""]
        lines += [f"- {_escape(statement)}" for statement in statements]
    lines += _finding_table(comparison)
    lines += ["", *(f"{_escape(line)}  " for line in comparison.footer())]
    return "\n".join(lines).rstrip() + "\n"


def _finding_table(comparison: Comparison) -> list[str]:
    """AUROC of every finding, with the number of images that have it."""
    undefined = {*comparison.unannotated_labels, *comparison.single_class_labels}
    names = [name for name in comparison.finding_names if name not in undefined]
    rows = [row for row in comparison.rows if any(f"auroc/{name}" in row.estimates for name in names)]
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
        absent, present = comparison.class_counts[name]
        cells = [_cell(row.estimates.get(f"auroc/{name}"), 3, True) for row in rows]
        lines.append(f"| {_escape(name)} | {present} of {absent + present} | " + " | ".join(cells) + " |")
    return lines


def _columns(comparison: Comparison) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.estimates for row in comparison.rows)]


def _name(row: Row) -> str:
    return f"{row.name} ({len(row.runs)} runs)" if len(row.runs) > 1 else row.name


def _terminal_cell(row: Row, key: str, decimals: int) -> Text:
    estimate = row.estimates.get(key)
    if estimate is None:
        return Text("-")
    if key in WITH_INTERVAL:
        interval = format_interval(estimate).strip("[]").replace(", ", "–")
        return Text(_value(estimate, decimals).replace("± ", "±")).append(f"\n{interval}", style="dim")
    # Narrow columns: the deviation goes below.
    return Text(_value(estimate, decimals).replace(" ± ", "\n±"))


def _cell(estimate: Estimate | None, decimals: int, with_interval: bool) -> str:
    if estimate is None:
        return "-"
    return f"{_value(estimate, decimals)} {format_interval(estimate) if with_interval else ''}".strip()


def _value(estimate: Estimate, decimals: int) -> str:
    value = f"{estimate.value:.{decimals}f}"
    return value if estimate.deviation is None else f"{value} ± {estimate.deviation:.{decimals}f}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
