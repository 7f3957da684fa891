"""A folder of radiographs and a CSV file of labels as a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ..errors import DatasetError, LabelError
from ..preparation.group_split import make_splits, number_groups
from ..preparation.image_folder import ImageFolder
from ..preparation.options import PreparationOptions
from ..preparation.source import ImageRecord, PreparationSource, SourceCard, SourceImages
from ..preparation.tables import Table

_MISSING = -1
_CELLS = {"": _MISSING, "-1": _MISSING, "-1.0": _MISSING, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
_NORMAL = ("normal", "no finding", "no findings")  # such a class is number 0
_MOST_CLASSES = 50


@dataclass(frozen=True)
class LabelsOptions(PreparationOptions):
    """Every choice for a CSV file of labels, besides those of [`PreparationOptions`].

    Args:
        labels (`str`):
            CSV file with a row per image.
        image_column (`str`, *optional*, defaults to `"image_id"`):
            Column of file names, with or without suffix. A folder in front of the name is ignored.
        label_column (`str`, *optional*, defaults to `"label"`):
            Column of the global label: 0 and 1, or class names. An empty cell or -1 is a missing label. `"none"`: the
            label is 1 if any finding is present, 0 if all are absent, and missing otherwise.
        findings (`Sequence[str]`, *optional*, defaults to `()`):
            Columns of local findings, with 0, 1, or an empty cell or -1 for a missing label.
        patient_column (`str`, *optional*):
            Column of patients, so that no patient is in two splits.
        test_fraction (`float`, *optional*):
            Share of the images for the test split, by whole patients and independent of the seed. `None` means 0.15.

    Raises:
        [`DatasetError`]: When a choice is not one of the values above.
    """

    labels: str | Path = ""
    image_column: str = "image_id"
    label_column: str = "label"
    findings: Sequence[str] = ()
    patient_column: str | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups is not None:
            raise DatasetError("groups (--groups) is for VinDr-CXR. Name the column of patients (--patient-column).")
        object.__setattr__(self, "labels", str(self.labels))
        object.__setattr__(self, "findings", tuple(self.findings or ()))
        object.__setattr__(self, "test_fraction", 0.15 if self.test_fraction is None else self.test_fraction)
        self._check_fraction("test_fraction")
        if self.label_column == "none" and not self.findings:
            raise DatasetError("There must be a label column or findings. Name them (--label-column, --findings).")

    @property
    def columns(self) -> list[str]:
        """The columns that are used."""
        label = [] if self.label_column == "none" else [self.label_column]
        return [self.image_column, *label, *filter(None, [self.patient_column]), *self.findings]

    def choices(self) -> dict[str, Any]:
        """Return the choices as plain values; no path, which may name a person."""
        names = ("image_column", "label_column", "patient_column", "test_fraction")
        chosen = {name: getattr(self, name) for name in names} | {"findings": list(self.findings)}
        return super().choices() | {"groups": "column" if self.patient_column else "image"} | chosen


@dataclass(frozen=True)
class LabelledRecord(ImageRecord):
    """One image with its labels.

    Args:
        label (`int`):
            Number of the class; -1 is missing.
        findings (`tuple[int, ...]`):
            1 present, 0 absent, -1 missing.
    """

    label: int = _MISSING
    findings: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelsSource(PreparationSource):
    """A local folder of DICOM, PNG or JPEG files, sub-folders included, and a CSV file of labels.

    Args:
        data_dir (`str` or `Path`):
            The folder.
        options (`LabelsOptions`):
            The choices.

    Raises:
        [`DatasetError`]: When the CSV file cannot be read, or a column is missing or has too many classes.

    Example:
        ```python
        >>> from mlcak_hf.labels_csv.labels_source import LabelsOptions, LabelsSource
        >>> from mlcak_hf.preparation.prepare import prepare_dataset

        >>> source = LabelsSource("images", LabelsOptions(labels="labels.csv"))  # doctest: +SKIP
        >>> report = prepare_dataset(source, "my-dataset")  # doctest: +SKIP
        ```
    """

    data_dir: str | Path
    options: LabelsOptions
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        column, names = self.options.label_column, dict[str, str]()
        for _, row in self._rows() if column != "none" else ():
            names.setdefault(row[column].casefold(), row[column])
        if names.keys() <= _CELLS.keys():
            classes = ["Normal", "Abnormal"]
        else:
            known = sorted(names.keys() - {"", "-1", "-1.0"}, key=lambda n: (n not in _NORMAL, len(n) * n.isdigit(), n))
            classes = [names[folded] for folded in known]
        if not 2 <= len(classes) <= _MOST_CLASSES:
            problem = f"The column {column!r} must hold 2 to {_MOST_CLASSES} different labels; got {len(classes)}"
            raise DatasetError(f"{problem}. Name the column of labels (--label-column).")
        object.__setattr__(self, "classes", tuple(classes))

    def read(self) -> SourceImages:
        """Match the rows with the files and divide the images into splits; no image is opened.

        Raises:
            [`DatasetError`]: When an image has no file, row or patient, or two files or different rows; or a split
                would be empty. With `on_error="skip"`, such images are listed instead.
            [`LabelError`]: When a finding is not 0, 1 or missing.
        """
        options, folder = self.options, ImageFolder.scan(Path(self.data_dir).expanduser(), "images", deep=True)
        records: dict[str, LabelledRecord] = {}
        rows = list(self._rows())
        for line, row in rows:
            written = row[options.image_column].replace("\\", "/").rpartition("/")[2]
            image_id = folder.identify(written) if written else f"line {line}"
            try:
                record = self._record(image_id, row, folder)
            except LabelError as error:
                detail = f"line {line}: {error}"
                folder.refuse(image_id, "with unusable labels in the CSV file", "Correct them", detail, LabelError)
                record = LabelledRecord(image_id, "", image_id)
            if not written:
                folder.refuse(image_id, "without a name in the CSV file", "Complete the row")
            elif not record.group:
                folder.refuse(image_id, "without a patient in the CSV file", "Complete the row")
            elif records.setdefault(image_id, record) != record:
                folder.refuse(image_id, "with different rows in the CSV file", "Keep one of them")
            elif records[image_id] is not record:
                folder.repeated("the CSV file")
            records.setdefault(image_id, record)
        folder.match("the CSV file", records)
        if options.on_error == "raise":
            folder.raise_problems()
        usable = [record for image_id, record in records.items() if image_id not in folder.problems]
        if not usable:
            raise DatasetError("The folder and the CSV file must have a usable image in common; got none. Check them.")
        splits = make_splits(usable, options, options.test_fraction or 0)
        unlabelled = sum(record.label == _MISSING for record in usable)
        unused = [name for name in rows[0][1] if name not in options.columns]
        folder.table_notes += Counter(
            {
                "image(s) have no label, which is stored as -1": unlabelled,
                f"column(s) of the CSV file were not used: {', '.join(unused)}": len(unused),
            }
        )
        notes = [f"{count} {text}" for text, count in folder.table_notes.items()]
        return SourceImages(number_groups(splits) if options.patient_column else splits, folder.skipped(), notes)

    def label_features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the label columns before and after the boxes."""
        findings = {"findings": dict.fromkeys(self.options.findings, datasets.Value("int8"))}
        label = {"label": datasets.ClassLabel(names=list(self.classes))}
        return label | (findings if self.options.findings else {}), {}

    def label_rows(self, record: LabelledRecord, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the key and the label columns of the image."""
        findings = dict(zip(self.options.findings, record.findings, strict=True))
        yield record.image_id, {"label": record.label, "findings": findings, "boxes": []}

    def folder_of(self, split: str) -> str:
        """Return the same name for every folder, as its own may name a person."""
        return "images"

    def card(self) -> SourceCard:
        """Return the sentences of the dataset card that depend on the labels."""
        columns = {"`label`": ", ".join(f"{i} {name}" for i, name in enumerate(self.classes)) + "; -1 = missing"}
        if self.options.findings:
            columns["`findings`"] = f"{', '.join(self.options.findings)}: 1 present, 0 absent, -1 missing"
        return SourceCard(
            title="Chest radiographs with labels from a table",
            notice="**Research use only.** Check that you may pass the images on before you share this folder.",
            made_from="a local folder of radiographs and a CSV file of labels",
            splits=["`test` was set aside by a hash of the group, the same for every seed. Read it once, at the end."],
            columns=columns,
            labels=["Labels are those of the CSV file, unchanged."],
        )

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        table = Table(Path(self.options.labels).expanduser(), self.options.image_column)
        remedy = "Name the columns (--image-column, --label-column, --patient-column, --findings)."
        return table.named_rows(self.options.columns, remedy)

    def _record(self, image_id: str, row: Mapping[str, str], folder: ImageFolder) -> LabelledRecord:
        options = self.options
        findings = tuple(_CELLS.get(row[name], 2) for name in options.findings)
        if 2 in findings:
            name = options.findings[findings.index(2)]
            raise LabelError(f"column {name!r} must hold 0, 1, or nothing for a missing label")
        if options.label_column == "none":
            label = 1 if 1 in findings else max(findings) if _MISSING not in findings else _MISSING
        else:
            cell = row[options.label_column].casefold()
            numbers = {name.casefold(): number for number, name in enumerate(self.classes)}
            label = numbers.get(cell, _CELLS.get(cell, _MISSING))
        group = row[options.patient_column] if options.patient_column else image_id
        return LabelledRecord(image_id, str(folder.files.get(image_id, "")), group, label=label, findings=findings)
