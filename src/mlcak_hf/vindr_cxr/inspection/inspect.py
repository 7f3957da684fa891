"""Inspection of a VinDr-CXR folder before preparing it: files, damage, labels, readers, time and disk space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...errors import DatasetError, MLCAKError
from ...preparation.image_folder import radiograph_files
from ...preparation.source import SourceImages
from ...preparation.suspect_images import beyond_px, is_reshaped, suspect_sentences
from ...worker_processes import map_in_processes
from ..labels import VINDR_CXR_LABELS
from ..layout import LAYOUTS, read_layout
from ..options import VinDrOptions
from ..vindr_source import VinDrSource
from .file_facts import FileFacts, file_facts, grouped, pixel_digest
from .inspection_report import InspectionReport, Problem
from .reader_agreement import count_labels, reader_agreement
from .sample import SampledImage, choose_sample, draw_contact_sheet, estimate, read_sampled

SAMPLE_SIZE = 24


def inspect_vindr_cxr(
    data_dir: str | Path,
    *,
    json_file: str | Path | None = None,
    contact_sheet: str | Path | None = None,
    num_proc: int = 1,
    **choices: Any,
) -> InspectionReport:
    """Check a folder of radiographs and tables before preparing a dataset from it. The folder is not changed.

    All headers and a sample of 24 radiographs are read. Damaged files are reported and do not stop the inspection.

    Args:
        data_dir (`str` or `Path`):
            Folder in the layout of PhysioNet or Kaggle.
        json_file (`str` or `Path`, *optional*):
            JSON file to write with everything found.
        contact_sheet (`str` or `Path`, *optional*):
            PNG file to write with the sampled radiographs.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes.
        choices (*optional*):
            Choices of the preparation, for the sample and the estimate, named as in [`VinDrOptions`].

    Returns:
        [`InspectionReport`]: Everything found, as values and as tables for the terminal.

    Raises:
        [`DatasetError`]: When the folder has no known layout, a process dies, or an output file cannot be written
            (checked first).

    Example:
        ```python
        >>> from mlcak_hf import inspect_vindr_cxr

        >>> report = inspect_vindr_cxr("vindr-cxr/1.0.0", contact_sheet="sheet.png")  # doctest: +SKIP
        >>> report.problems, report.agreement.labels["Cardiomegaly"].fleiss  # doctest: +SKIP
        ```
    """
    source = VinDrSource(data_dir, VinDrOptions(**choices | {"on_error": "skip"}))
    options, root = source.options, Path(source.data_dir)
    for target in (json_file, contact_sheet):
        if target is not None:
            _check_writable(Path(target))

    def run(function: Callable[..., Any], jobs: Sequence[Any], doing: str) -> list[Any]:
        results = map_in_processes(function, jobs, num_proc, doing="reading radiographs", preload=__name__)
        return list(logging.tqdm(results, total=len(jobs), desc=doing, unit="file", disable=None))

    images, problems = _read_tables(source)
    paths = [path for name in LAYOUTS[options.layout].folders for path in radiograph_files(root / name)]
    files = run(file_facts, paths, "headers")
    sample = run(partial(read_sampled, source), choose_sample(files, SAMPLE_SIZE), "sample")
    if contact_sheet is not None:
        draw_contact_sheet(sample, Path(contact_sheet), len(files))
    by_path = {str(root / facts.file): facts for facts in files}
    records = [(record, by_path[record.path]) for split in images.splits.values() for record in split]
    unreadable = [(facts.problem, facts.file) for facts in files if facts.problem]
    unreadable += [(image.problem, image.facts.file) for image in sample if image.problem]
    problems += [Problem("unreadable", text, names, len(names)) for text, names in grouped(unreadable)]
    problems += [*_duplicates(root, files, run), *_suspect(records, sample)]
    for note in images.table_notes:
        count, _, text = note.partition(" ")
        problems.append(Problem("table_notes", text, [], int(count)))
    found = [facts for _, facts in records] if images.splits else files
    to_prepare = [facts for facts in found if facts.problem is None]
    labels = options.annotated or VINDR_CXR_LABELS
    readings = {name: [record.readings for record in split] for name, split in images.splits.items()}
    report = InspectionReport(
        layout=options.layout,
        files=files,
        problems=problems,
        counts={name: count_labels(read, labels) for name, read in readings.items() if read},
        agreement=reader_agreement(readings.get("train", []), labels),
        sample=sample,
        estimate=estimate(sample, to_prepare, options.size_px, num_proc),
    )
    if json_file is not None:
        Path(json_file).write_text(report.as_json(), encoding="utf-8")
    return report


def _check_writable(path: Path) -> None:
    try:
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        raise DatasetError(f"{reason}. Name a file in a folder that exists.") from None


def _read_tables(source: VinDrSource) -> tuple[SourceImages, list[Problem]]:
    try:
        images = read_layout(source.data_dir, source.options)
    except MLCAKError as error:
        return SourceImages({}, [], []), [Problem("tables", f"the tables cannot be used: {error}", [], 1)]
    skipped = []
    for image in images.skipped:
        headline, _, detail = image.reason.partition(": ")
        skipped.append((headline, f"{image.folder}/{image.image_id}" + f" ({detail})" * bool(detail)))
    return images, [Problem("skipped", f"image(s) {text}", names, len(names)) for text, names in grouped(skipped)]


def _duplicates(root: Path, files: Sequence[FileFacts], run: Callable[..., list[str]]) -> Iterator[Problem]:
    """Find files with the same pixel data; only files of equal length and ending are read completely."""
    alike = grouped(((facts.num_bytes - facts.pixels_at, facts.tail), facts) for facts in files if facts.tail)
    candidates = [facts for _, group in alike if len(group) > 1 for facts in group]
    digests = run(partial(pixel_digest, root), candidates, "duplicates") if candidates else []
    for _, names in grouped(zip(digests, (facts.file for facts in candidates), strict=True)):
        across = ", in train/ and in test/" * (len({name.split("/")[0] for name in names}) > 1)
        if len(names) > 1:
            yield Problem("duplicates", f"files with the same pixels{across}", names, len(names))


def _suspect(records: Sequence[tuple[Any, FileFacts]], sample: Sequence[SampledImage]) -> Iterator[Problem]:
    suspects: dict[str, list[str]] = {"boxes_outside": [], "reshaped": []}
    for record, facts in records:
        for box in record.boxes if facts.rows and facts.columns else ():
            beyond = beyond_px(box, *(record.boxes_size or (facts.rows, facts.columns)))
            if beyond > 0:
                suspects["boxes_outside"].append(f"{facts.file} ({box.finding} of {box.reader}, {beyond:.3g} px)")
        if facts.rows and facts.columns and is_reshaped(record, facts.rows, facts.columns):
            suspects["reshaped"].append(facts.file)
    of_all = set(suspects)
    for image in sample:
        for kind in image.suspicions:
            suspects.setdefault(kind, []).append(image.facts.file)
    for kind, sentence, names in suspect_sentences(suspects):
        where = "" if kind in of_all else f"of the {len(sample)} sampled: "
        yield Problem(kind, where + sentence.partition(" ")[2], names, len(names))
