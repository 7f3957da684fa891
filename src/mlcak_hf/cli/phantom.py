"""`mlcak phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..errors import DatasetError


def phantom(
    output: Annotated[Path, Argument(help="Folder to write, in VinDr-CXR's layout.")],
    train: Annotated[int, Option(help="Number of training radiographs.", min=1)] = 1000,
    test: Annotated[int, Option(help="Number of test radiographs.", min=1)] = 300,
    size_px: Annotated[int, Option("--size", help="Typical shorter side, in pixels.", min=64)] = 512,
    prevalence: Annotated[
        list[str] | None,
        Option(metavar="NAME=SHARE", help='Share of images with a finding, such as "Cardiomegaly=0.2"; repeat.'),
    ] = None,
    seed: Annotated[int, Option(help="Random seed. The same seed writes the same bytes.")] = 0,
    workers: Annotated[int, Option(help="Number of processes that draw.", min=1)] = 1,
    overwrite: Annotated[bool, Option(help="Replace phantoms from an earlier run.")] = False,
) -> None:
    """Write synthetic chest radiographs as DICOM files, in VinDr-CXR's layout on PhysioNet."""
    from rich.console import Console
    from rich.table import Column, Table

    from ..phantoms.writer import write_phantoms

    report = write_phantoms(
        output,
        num_train=train,
        num_test=test,
        size_px=size_px,
        seed=seed,
        num_proc=workers,
        overwrite=overwrite,
        prevalence=dict(_named_share(given) for given in prevalence or ()),
    )
    table = Table("Images", *(Column(split, justify="right") for split in report.num_images))
    table.title = "Synthetic radiographs"
    table.add_row("all", *map(str, report.num_images.values()))
    table.add_row("with any finding", *map(str, report.num_abnormal.values()), end_section=True)
    for finding in next(iter(report.finding_counts.values())):
        table.add_row(finding, *(str(counts[finding]) for counts in report.finding_counts.values()))
    out = Console()
    out.print(table)
    syntaxes = ", ".join(f"{name} {count}" for name, count in report.transfer_syntaxes.items())
    out.print(f"Transfer syntaxes: {syntaxes}")
    out.print(f"Phantoms: {report.output_dir}   patients: {report.groups_file}")


def _named_share(given: str) -> tuple[str, float]:
    name, _, share = given.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise DatasetError(f'--prevalence must be NAME=SHARE, such as "Cardiomegaly=0.2"; got {given!r}.') from None
