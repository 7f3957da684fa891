"""The report of one model as a single HTML file: no network, no script, figures and pictures inside."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2

from ...explanation.choices import METHODS
from ...shipped import hub_configs_dir
from ..comparison import NOTICE, RARE
from ..evidence.pictures import Pictures
from ..evidence.record import EVALUATION_FILE, Evidence
from ..explanations.measurement import FLOORS
from .claim_checklist import claim_items
from .figure import inline_svg
from .html_figures import report_figures
from .verdict import describe_calibration, judge
from .wording import TITLES, interval, number

REPORT_FILE = "report.html"


def render(evidence: Evidence, pictures: Pictures | None = None) -> str:
    """Write the report of an evaluation as HTML.

    Args:
        evidence ([`Evidence`]):
            What was measured.
        pictures ([`Pictures`], *optional*):
            None by default.

    Returns:
        `str`: The same text for the same record.
    """
    template = (hub_configs_dir() / "templates" / "evaluation.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    figures = {name: inline_svg(figure, name) for name, figure in report_figures(evidence).items()}
    return environment.from_string(template).render(
        evidence=evidence,
        comparison=evidence.comparison,
        row=evidence.row,
        verdict=judge(evidence),
        figures=figures,
        pictures=(pictures or Pictures()).errors,
        maps=(pictures or Pictures()).maps,
        methods=METHODS,
        floors=FLOORS,
        items=claim_items(evidence),
        notice=NOTICE,
        rare=RARE,
        titles=TITLES,
        number=number,
        interval=interval,
        describe_calibration=describe_calibration,
        dump=json.dumps,
    )


def write_evidence(evidence: Evidence, folder: str | Path, pictures: Pictures | None = None) -> list[Path]:
    """Write `report.html` and `evaluation.json`.

    Args:
        evidence ([`Evidence`]):
            What was measured.
        folder (`str` or `Path`):
            Existing folder.
        pictures ([`Pictures`], *optional*):
            As for [`render`].

    Returns:
        `list[Path]`: The written files.
    """
    page, record = Path(folder) / REPORT_FILE, Path(folder) / EVALUATION_FILE
    evidence.save(record)
    page.write_text(render(evidence, pictures), encoding="utf-8")
    return [page, record]
