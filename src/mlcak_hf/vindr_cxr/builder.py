"""VinDr-CXR (or anything laid out like it) as a `datasets` dataset, in the form of a loading script.

The images are read from a local folder only; nothing is downloaded or uploaded. Patients' names, dates and numbers are
never read from the DICOM files, so the dataset cannot contain them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from ..errors import DicomError
from ..preparation.notes import PreparationNotes
from ..preparation.rows import VinDrCXRConfig, image_rows, vindr_features
from ..preparation.suspect_images import Doubts
from ..radiographs.grey_values import ValueRange, Voi
from ..radiographs.read import Fit
from .labels import Aggregation
from .layout import ImageRecord, Layout, LeftOut
from .splits import read_splits

logger = logging.get_logger(__name__)

_DESCRIPTION = (
    "Chest radiographs laid out as VinDr-CXR, with 22 local findings, 6 global labels, the votes of every reader, and"
    " boxes in original pixels. Images are grey squares, 0 is air. For research only."
)
_HOMEPAGE = "https://physionet.org/content/vindr-cxr/1.0.0/"
_LICENSE = (
    "PhysioNet Credentialed Health Data License 1.5.0 and its data use agreement, if the source is VinDr-CXR:"
    " do not pass the data on"
)
CITATION = """\
@article{nguyen2022vindr,
  title = {{VinDr-CXR}: An open dataset of chest {X}-rays with radiologist's annotations},
  author = {Nguyen, Ha Q. and Lam, Khanh and Le, Linh T. and others},
  journal = {Scientific Data},
  volume = {9},
  pages = {429},
  year = {2022},
  doi = {10.1038/s41597-022-01498-w}
}"""


class VinDrCXR(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """Builder over a local folder in VinDr-CXR's layout; `load_vindr_cxr` is the short way to it.

    Example:

    ```python
    >>> from mlcak_hf.data import VinDrCXR
    >>> builder = VinDrCXR(data_dir="vindr-cxr/1.0.0", aggregation="any")
    >>> builder.download_and_prepare(num_proc=2)
    >>> train = builder.as_dataset(split="train")
    ```
    """

    BUILDER_CONFIG_CLASS = VinDrCXRConfig
    # A batch of 256 px images is some 10 MB; the default of 1000 rows would keep 40 MB per process for no gain.
    DEFAULT_WRITER_BATCH_SIZE = 250

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=json.dumps({"description": _DESCRIPTION, "choices": self.config.choices()}),
            features=vindr_features(self.config.aggregation),
            homepage=_HOMEPAGE,
            license=_LICENSE,
            citation=CITATION,
        )

    @property
    def left_out(self) -> list[LeftOut]:
        """Images that are not in the prepared dataset, and why; by folder and image id."""
        return self._notes.left_out

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the folder and write the dataset; nothing is downloaded. Arguments as in `datasets`.

        Raises:
            DicomError: A radiograph cannot be read (with on_error="raise").
            DatasetError: A split would be empty.
            LabelError: The tables cannot be used.
        """
        try:
            super().download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            reason = self._notes.stopped_by
            if reason is None:
                raise
            raise DicomError(reason) from error
        skipped = self.left_out
        if skipped:
            logger.warning(f"{len(skipped)} image(s) left out; the first: {skipped[0].image_id} ({skipped[0].reason})")
        for _, sentence, ids in self._notes.doubts.sentences():
            logger.warning(f"{sentence}. The first: {ids[0]}")

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        splits = read_splits(self.config)
        notes = PreparationNotes(None) if dl_manager.is_streaming else self._notes
        notes.clear()
        notes.leave_out(splits.left_out)
        generators = []
        for name, images in splits.images.items():
            per_reader = name == "train" and self.config.aggregation == "none"
            generator = datasets.SplitGenerator(
                name=name,
                gen_kwargs={
                    "images": images,
                    "per_reader": per_reader,
                    "pseudonyms": splits.pseudonyms,
                    "notes": notes,
                },
            )
            # The progress bar takes its total from here; the true count replaces it at the end.
            generator.split_info.num_examples = sum(len(i.readings) if per_reader else 1 for i in images)
            generators.append(generator)
        return generators

    def _generate_examples(
        self, images: list[ImageRecord], per_reader: bool, pseudonyms: dict[str, str] | None, notes: PreparationNotes
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in images:
            doubts = Doubts()
            try:
                yield from image_rows(record, self.config, per_reader, pseudonyms, doubts)
            except DicomError as error:
                if self.config.on_error == "raise":
                    notes.stop(f"{error}. To go on without such images: on_error='skip' (--on-error skip)")
                    raise
                notes.leave_out([LeftOut(record.image_id, str(error), Path(record.path).parent.name)])
            notes.doubt(doubts)

    @property
    def _notes(self) -> PreparationNotes:
        return PreparationNotes(Path(f"{self._cache_dir}.notes"))


def load_vindr_cxr(
    data_dir: str | os.PathLike[str],
    split: str | None = None,
    *,
    size_px: int = 256,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
    aggregation: Aggregation = "majority",
    annotated: Sequence[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    validation_fraction: float = 0.15,
    seed: int = 0,
    on_error: str = "raise",
    layout: Layout = "auto",
    sizes: str | os.PathLike[str] | None = None,
    test_fraction: float | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """Load a local folder in VinDr-CXR's layout as a dataset. Nothing is downloaded or uploaded.

    Args:
        data_dir: Folder with train/, test/ and annotations/ as on PhysioNet, or with train/ and train.csv as on Kaggle
            (VinBigData); the images are DICOM files, or PNG or JPEG conversions of them.
        split: "train", "validation" or "test"; None for all of them.
        size_px: Side of the stored square images, in pixels.
        fit: "pad" to a square with black, or "squash".
        voi: Limits of the grey values: "dicom", "percentile" or "none", as in `read_radiograph`.
        value_range: For PNG and JPEG files: the stored values that become 0 and 1, such as (0, 4095) for 12 bits in a
            file of 16; None: the range of the stored bits.
        aggregation: "majority" (more than half of the readers), "any", "all", "mean" (soft targets), or "none": a row
            per reader in the training split, with that reader's targets and boxes and with the votes of all; validation
            and test stay by image, validation by majority. Test labels are a consensus (one reading) in every case.
        annotated: Names of the labels that this source annotated; the others are missing (-1), not 0. None: all 28.
        groups: CSV with the columns image_id and group_id, one row per image: images of one patient share a group and
            never lie in two splits. The groups get running numbers in the dataset, as the ids may name a patient.
        validation_fraction: Share of the training images set aside for validation, by whole groups.
        seed: Seed of that split.
        on_error: "raise" at the first unusable image, or "skip" it, count it and list it (`VinDrCXR.left_out`).
        layout: "physionet" or "kaggle"; "auto" tells them by their tables. With Kaggle's, the 13 labels that it never
            annotated are missing (-1), whatever `annotated` leaves of the others.
        sizes: For PNG and JPEG files: a CSV with the sizes of the original radiographs, to which the boxes refer
            (image_id and dim0, dim1 or height, width), or "same" where the pictures have them still. None:
            train_meta.csv and test_meta.csv in the folder. In the dataset, boxes, `original_height` and
            `original_width` are in pixels of the picture.
        test_fraction: Share of Kaggle's images set aside as the test split, by whole groups and alike for every seed,
            as Kaggle's own test images have no labels; None: 0.15. No choice with PhysioNet's layout.
        num_proc: Processes that decode at the same time.
        streaming: Decode while iterating instead of preparing a cache.
        cache_dir: Where prepared datasets are kept; None for that of `datasets`. Other choices or changed files make a
            new entry.

    Returns:
        `datasets.DatasetDict`, or `datasets.Dataset` for one split; the iterable kinds with `streaming`. Columns as in
        `vindr_features`; the choices are in `info.description` as JSON.

    Raises:
        DatasetError: The folder, its tables or the groups file are not as they must be.
        LabelError: An unknown label or aggregation, or labels that contradict themselves.
        DicomError: A radiograph cannot be read.

    Example:

    ```python
    >>> from mlcak_hf.data import load_vindr_cxr
    >>> dataset = load_vindr_cxr("vindr-cxr/1.0.0", num_proc=4)
    >>> dataset["train"].features["label"].names
    ['Normal', 'Abnormal']
    ```
    """
    builder = VinDrCXR(
        cache_dir=None if cache_dir is None else str(cache_dir),
        data_dir=str(data_dir),
        size_px=size_px,
        fit=fit,
        voi=voi,
        value_range=value_range,
        aggregation=aggregation,
        annotated=annotated,
        groups=None if groups is None else str(groups),
        validation_fraction=validation_fraction,
        seed=seed,
        on_error=on_error,
        layout=layout,
        sizes=None if sizes is None else str(sizes),
        test_fraction=test_fraction,
    )
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)
