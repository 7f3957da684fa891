"""Inspection of a VinDr-CXR folder before preparing it: files, damage, labels, readers, time and disk space."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...errors import DatasetError, MLCAKError
from ...preparation.image_folder import radiograph_files
from ...preparation.source import SourceImages
from ...preparation.suspect_images import beyond_px, is_reshaped
from ...worker_processes import map_in_processes
from ..labels import VINDR_CXR_LABELS
from ..layout import LAYOUTS, read_layout
from ..options import Layout, VinDrOptions
from ..vindr_folder import VinDrRecord
from ..vindr_source import VinDrSource
from .contact_sheet import draw_contact_sheet
from .file_facts import FileFacts, file_facts, pixel_digest
from .inspection_report import BoxOutside, InspectionReport
from .reader_agreement import count_labels, reader_agreement
from .sample import choose_sample, estimate, read_sampled

SAMPLE_SIZE = 24


def inspect_vindr_cxr(
    data_dir: str | os.PathLike[str],
    *,
    layout: Layout = "auto",
    sizes: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    contact_sheet: str | os.PathLike[str] | None = None,
    num_proc: int = 1,
    progress: bool = True,
) -> InspectionReport:
    """Check a folder of radiographs and tables before preparing a dataset from it. The folder is not changed.

    All headers and a sample of 24 radiographs are read. Damaged files are reported and do not stop the inspection.

    Args:
        data_dir (`str` or `os.PathLike`):
            Folder in the layout of PhysioNet or Kaggle.
        layout (`str`, *optional*, defaults to `"auto"`):
            As in [`VinDrOptions`].
        sizes (`str` or `os.PathLike`, *optional*):
            As in [`VinDrOptions`].
        json_file (`str` or `os.PathLike`, *optional*):
            JSON file to write with everything found.
        contact_sheet (`str` or `os.PathLike`, *optional*):
            PNG file to write with the sampled radiographs.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`InspectionReport`]: Everything found, as values and as tables for the terminal.

    Raises:
        [`DatasetError`]: When the folder has no known layout, a process dies, or an output file cannot be written
            (checked first).

    Example:
        ```python
        >>> from mlcak_hf import inspect_vindr_cxr

        >>> report = inspect_vindr_cxr("vindr-cxr/1.0.0", contact_sheet="sheet.png")  # doctest: +SKIP
        >>> report.damaged, report.agreement.labels["Cardiomegaly"].fleiss  # doctest: +SKIP
        ```
    """
    source = VinDrSource(data_dir, VinDrOptions(layout=layout, sizes=sizes, on_error="skip"))
    config, root = source.options, Path(source.data_dir)
    for target in (json_file, contact_sheet):
        if target is not None:
            _check_target(Path(target))
    found, tables_problem = _read_tables(source)
    run = partial(_in_processes, num_proc=num_proc, progress=progress)
    paths = [path for name in LAYOUTS[config.layout].folders for path in _files(root / name)]
    files = list(run(file_facts, paths, "headers"))
    chosen = choose_sample(files, SAMPLE_SIZE)
    sample = list(run(partial(read_sampled, source), chosen, "sample"))
    if contact_sheet is not None:
        draw_contact_sheet(sample, Path(contact_sheet), len(files))
    labels = config.annotated or VINDR_CXR_LABELS
    records = found.splits if found else {}
    readings = {name: [record.readings for record in images] for name, images in records.items()}
    by_path = {str(root / facts.folder / facts.name): facts for facts in files}
    pairs = [(record, by_path[record.path]) for images in records.values() for record in images]
    to_prepare = [facts for _, facts in pairs] if found else files
    report = InspectionReport(
        layout=config.layout,
        files=files,
        tables_problem=tables_problem,
        skipped=found.skipped if found else [],
        table_notes=found.table_notes if found else [],
        duplicates=_duplicates(root, files, run),
        counts={name: count_labels(images, labels) for name, images in readings.items() if images},
        agreement=reader_agreement(readings.get("train", []), labels),
        boxes_outside=_boxes_outside(pairs),
        reshaped=_reshaped(pairs),
        sample=sample,
        estimate=estimate(sample, [facts for facts in to_prepare if facts.usable]),
        num_proc=num_proc,
        size_px=config.size_px,
    )
    if json_file is not None:
        report.write_json(Path(json_file))
    return report


def _check_target(path: Path) -> None:
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}). Name a file in a folder that exists."
        ) from None


def _read_tables(source: VinDrSource) -> tuple[SourceImages | None, str | None]:
    try:
        return read_layout(source.data_dir, source.options), None
    except MLCAKError as error:
        return None, str(error)


def _files(folder: Path) -> list[Path]:
    try:
        return radiograph_files(folder)
    except MLCAKError:  # reported when the tables were read
        return []


def _in_processes(
    function: Callable[..., Any], jobs: Sequence[Any], doing: str, num_proc: int, progress: bool
) -> Iterator[Any]:
    results = map_in_processes(function, jobs, num_proc, doing="reading radiographs", preload=__name__)
    return iter(logging.tqdm(results, total=len(jobs), desc=doing, unit="file", disable=not progress))


def _duplicates(root: Path, files: Sequence[FileFacts], run: Callable[..., Iterator[str | None]]) -> list[list[str]]:
    """Groups of files with the same pixel data; only files of equal length and ending are read completely."""
    alike: dict[tuple[int, str], list[FileFacts]] = {}
    for facts in files:
        if facts.tail:
            alike.setdefault((facts.num_bytes - facts.pixels_at, facts.tail), []).append(facts)
    candidates = [facts for group in alike.values() if len(group) > 1 for facts in group]
    if not candidates:
        return []
    same: dict[str, list[str]] = {}
    digests = run(partial(_digest_or_none, root), candidates, "duplicates")
    for facts, digest in zip(candidates, digests, strict=True):
        if digest is not None:
            same.setdefault(digest, []).append(f"{facts.folder}/{facts.name}")
    return [names for names in same.values() if len(names) > 1]


def _digest_or_none(root: Path, facts: FileFacts) -> str | None:
    try:
        return pixel_digest(root / facts.folder / facts.name, facts)
    except OSError:
        return None


def _boxes_outside(images: Sequence[tuple[VinDrRecord, FileFacts]]) -> list[BoxOutside]:
    outside = []
    for record, facts in images:
        height, width = record.boxes_size or (facts.rows, facts.columns)
        if height is None or width is None:
            continue
        for box in record.boxes:
            if (beyond := beyond_px(box, height, width)) > 0:
                name = f"{facts.folder}/{facts.name}"
                outside.append(BoxOutside(name, box.finding, box.reader, round(beyond, 3)))
    return outside


def _reshaped(images: Sequence[tuple[VinDrRecord, FileFacts]]) -> list[str]:
    """Pictures with boxes whose proportions are not those of the original radiograph."""
    return [
        f"{facts.folder}/{facts.name}"
        for record, facts in images
        if facts.rows and facts.columns and is_reshaped(record, facts.rows, facts.columns)
    ]
