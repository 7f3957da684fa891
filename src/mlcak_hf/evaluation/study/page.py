"""Write what a study found: one Markdown file, one JSON file, and one HTML page with its figures inside."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from ...shipped import hub_configs_dir
from ..comparison import COMPARED, NOTICE, Comparison, Estimate
from ..report.figure import COLOURS, DASHES, GREY, MARKERS, dot_figure, inline_svg, small_axes
from ..report.tables import COLUMNS, markdown
from ..report.wording import TITLES, floor, footer, interval, number, statements
from .cells import Study, write_json
from .results import StudyResult


def write_study(study: Study, result: StudyResult) -> list[Path]:
    """Write `study.md`, `study.json` and `study.html` into the folder of a study.

    Args:
        study ([`Study`]):
            The study.
        result ([`StudyResult`]):
            What [`collect`] found.

    Returns:
        `list[Path]`: The written files.
    """
    md, record, html = (study.folder / f"study.{kind}" for kind in ("md", "json", "html"))
    cells = [cell.record for cell in study.cells if cell.record]
    parts = [part for table in result.tables for part in (f"## {table.context['split']}", markdown(table))]
    text = ["# Study", "\n".join(f"- {line}" for line in result.lines), *parts, f"Protocol: `{study.protocol.digest}`"]
    md.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    content = {"notice": NOTICE, "protocol": study.kept, "tables": [asdict(table) for table in result.tables]}
    write_json(record, content | {"lines": list(result.lines), "cells": cells})
    template = (hub_configs_dir() / "templates" / "study.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    figures = {
        caption: inline_svg(figure, "study") for caption, figure in _figures(study, result) if figure is not None
    }
    words = {"number": number, "interval": interval, "floor": floor, "statements": statements, "footer": footer}
    page = environment.from_string(template).render(
        content,
        lines=result.lines,
        comparisons=result.tables,
        figures=figures,
        cells=cells,
        dump=json.dumps,
        columns=COLUMNS,
        **words,
    )
    html.write_text(page, encoding="utf-8")
    return [md, record, html]


def _figures(study: Study, result: StudyResult) -> list[tuple[str, Figure | None]]:
    table, ablation = result.tables[0], {row.name: row.ablation for row in study.protocol.study_rows}
    varied = [(each.metric, ablation[each.model], each) for each in table.differences if ablation.get(each.model)]
    varied.sort(key=lambda found: found[:2])
    dots = [
        (f"{what}: {each.model}, {TITLES[metric]}", each.estimate, COLOURS[COMPARED.index(metric)], each.beyond_noise)
        for metric, what, each in varied
    ]
    shares = [
        (f"{each.model}, {TITLES[each.metric]}", each.share, COLOURS[0], True)
        for of_table in result.tables
        for each in of_table.recovered
    ]
    return [
        ("AUROC against resolution, with 95 % intervals. Dashed: the teacher.", _resolution(study, table)),
        (
            "Share of the gap between teacher and baseline that is recovered, with 95 % intervals (1: as good as the "
            "teacher).",
            dot_figure(shares),
        ),
        ("Ablations: difference from the baseline, with 95 % intervals. Filled: beyond noise.", dot_figure(dots)),
    ]


def _resolution(study: Study, table: Comparison) -> Figure | None:
    """Draw every row at the size that it sees; `None` if all see the same."""
    ablations = {row.name for row in study.protocol.study_rows if row.ablation}
    series: dict[str, dict[int, dict[str, Estimate]]] = {}
    for row in table.rows:
        size = row.details.get("lowres_px") or row.details["image_size_px"]
        name = re.sub(rf"( fed)? {size} px$", "", row.name)
        if row.name not in ablations:
            series.setdefault(name, {})[size] = row.metrics
    sizes = sorted({size for points in series.values() for size in points})
    metrics = [metric for metric in COMPARED if any(metric in row.metrics for row in table.rows)]
    figure = Figure(figsize=(4.8 * len(metrics) + 1, 4), layout="constrained")
    teachers = {row.name for row in study.protocol.study_rows if row.kind == "teacher"}
    for panel, metric in enumerate(metrics):
        axes = small_axes(figure, (1, len(metrics), panel + 1), TITLES[metric])
        for row in table.rows:
            if row.name in teachers and metric in row.metrics:
                axes.axhline(row.metrics[metric].value, color=GREY, linewidth=1, linestyle=DASHES)
        for place, (name, points) in enumerate(series.items()):
            known = sorted((size, of[metric]) for size, of in points.items() if metric in of)
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            # Side by side, so that intervals do not cover each other.
            x = [sizes.index(size) + 0.06 * (place - (len(series) - 1) / 2) for size, _ in known]
            axes.plot(x, [of.value for _, of in known], color=colour, marker=marker, markersize=5, label=name)
            for at, (_, of) in zip(x, known, strict=True):
                if of.interval and of.interval.low is not None:
                    axes.plot([at, at], [of.interval.low, of.interval.high], color=colour, linewidth=1, alpha=0.6)
        axes.set_xticks(range(len(sizes)), [f"{size} px" for size in sizes])
        axes.legend(fontsize=7, frameon=False)
    return figure
