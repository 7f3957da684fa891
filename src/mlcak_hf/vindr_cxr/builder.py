"""VinDr-CXR as a `datasets` dataset, in the form of a loading script.

Images are read from a local folder. Names, dates and numbers of patients are never read from the DICOM files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from ..errors import DatasetError, DicomError
from ..preparation.rows import ImageNotes, dataset_features, image_rows
from ..preparation.shards.plan import PreparationPlan
from ..preparation.source import SkippedImage
from ..preparation.suspect_images import suspect_sentences
from .options import VinDrOptions
from .vindr_folder import VinDrRecord
from .vindr_source import VinDrSource

logger = logging.get_logger(__name__)


@dataclass
class VinDrCXRConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Configuration of the builder: a folder and the choices."""

    version: datasets.Version | str = field(default_factory=lambda: datasets.Version("1.0.0"))
    options: VinDrOptions = field(default_factory=VinDrOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_dir is None:
            raise DatasetError("data_dir must be the local folder with the images and their tables; got none.")
        self.source = VinDrSource(self.data_dir, self.options)
        self.images = self.source.read()

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """Name the cache folder by the choices and the content of the data folder, so that no stale one is reused."""
        plan = PreparationPlan.of(self.source, self.images)
        identity = {"content": plan.fingerprint + plan.files_state, "on_error": self.options.on_error}
        return str(super().create_config_id(identity, custom_features))


class VinDrCXR(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """Builder over a local folder in VinDr-CXR's layout; see also [`load_vindr_cxr`].

    Example:
        ```python
        >>> from mlcak_hf import VinDrOptions
        >>> from mlcak_hf.vindr_cxr.builder import VinDrCXR

        >>> builder = VinDrCXR(data_dir="vindr-cxr/1.0.0", options=VinDrOptions(size_px=128))  # doctest: +SKIP
        >>> builder.download_and_prepare(num_proc=2)  # doctest: +SKIP
        >>> train = builder.as_dataset(split="train")  # doctest: +SKIP
        ```
    """

    BUILDER_CONFIG_CLASS = VinDrCXRConfig
    # A batch of 256 px images is about 10 MB; the default of 1000 rows would need 40 MB per process without benefit.
    DEFAULT_WRITER_BATCH_SIZE = 250

    def _info(self) -> datasets.DatasetInfo:
        source, card = self.config.source, self.config.source.card()
        return datasets.DatasetInfo(
            description=json.dumps({"description": card.title, "choices": source.options.choices()}),
            features=dataset_features(source.label_features()),
            homepage="https://physionet.org/content/vindr-cxr/1.0.0/",
            license=card.notice,
            citation=card.citation,
        )

    @property
    def skipped(self) -> list[SkippedImage]:
        """Images that are not in the prepared dataset, by folder and image id."""
        return self._read_notes().skipped

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the folder and write the dataset; nothing is downloaded. Arguments as in `datasets`.

        Raises:
            [`DicomError`]: When a radiograph cannot be read (with `on_error="raise"`).
            [`DatasetError`]: When a split would be empty.
            [`LabelError`]: When the tables cannot be used.
        """
        try:
            super().download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:  # without the original error, if a worker process raised it
            if self.config.options.on_error == "raise" and (skipped := self.skipped):
                raise DicomError(skipped[0].reason) from error
            raise
        notes = self._read_notes()
        if notes.skipped:
            first = notes.skipped[0]
            logger.warning(f"{len(notes.skipped)} image(s) skipped. The first: {first.image_id} ({first.reason})")
        for _, sentence, ids in suspect_sentences(notes.suspect_images):
            logger.warning(f"{sentence}. The first: {ids[0]}")

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        source, images = self.config.source, self.config.images
        notes_folder = None
        if not dl_manager.is_streaming:
            notes_folder = self._notes_folder
            shutil.rmtree(notes_folder, ignore_errors=True)
            notes_folder.mkdir(parents=True)
        _write_notes(notes_folder, ImageNotes(images.skipped))
        generators = []
        for name, records in images.splits.items():
            arguments = {"records": records, "split": name, "notes_folder": notes_folder}
            generator = datasets.SplitGenerator(name=name, gen_kwargs=arguments)
            # The progress bar takes its total from here; the true number replaces it at the end.
            per_image = len if source.per_reader(name) else bool
            generator.split_info.num_examples = sum(per_image(record.readings) for record in records)
            generators.append(generator)
        return generators

    def _generate_examples(
        self, records: list[VinDrRecord], split: str, notes_folder: Path | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            notes = ImageNotes()
            try:
                yield from image_rows(self.config.source, split, record, notes)
            except DicomError as error:
                notes.skipped.append(SkippedImage(record.image_id, str(error), split))
                raise
            finally:
                _write_notes(notes_folder, notes)

    @property
    def _notes_folder(self) -> Path:
        return Path(f"{self._cache_dir}.notes")

    def _read_notes(self) -> ImageNotes:
        lines = [line for path in self._notes_folder.glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
        return ImageNotes.merge([ImageNotes.from_dict(json.loads(line)) for line in lines])


def _write_notes(folder: Path | None, notes: ImageNotes) -> None:
    """Add notes to a file of this process, as several may write at once; log them when streaming, without a folder."""
    if folder is None:
        for image in notes.skipped:
            logger.warning(f"Skipped {image.folder}/{image.image_id}: {image.reason}")
        for _, sentence, ids in suspect_sentences(notes.suspect_images):
            logger.warning(f"{ids[0]}: {sentence}")
    elif notes != ImageNotes():
        with (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(notes)) + "\n")


def load_vindr_cxr(
    data_dir: str | Path,
    split: str | None = None,
    *,
    num_proc: int | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    **choices: Any,
) -> Any:
    """Load a local folder in VinDr-CXR's layout as a dataset. Nothing is downloaded or uploaded.

    Args:
        data_dir (`str` or `Path`):
            Folder in PhysioNet's or Kaggle's layout, as in [`VinDrSource`].
        split (`str`, *optional*):
            `"train"`, `"validation"` or `"test"`. `None` loads all of them.
        num_proc (`int`, *optional*):
            Number of processes that decode at the same time.
        streaming (`bool`, *optional*, defaults to `False`):
            Decode while iterating instead of preparing a cache.
        cache_dir (`str` or `Path`, *optional*):
            Where prepared datasets are kept; by default that of `datasets`. Other choices or changed files make a new
            entry.
        choices (*optional*):
            The choices, named as in [`VinDrOptions`].

    Returns:
        `datasets.DatasetDict`, or `datasets.Dataset` for one split; the iterable kinds with `streaming`. The choices
        are in `info.description` as JSON.

    Raises:
        [`DatasetError`]: When the folder, its tables or the groups file cannot be used.
        [`LabelError`]: When a label is unknown, or labels are contradictory.
        [`DicomError`]: When a radiograph cannot be read.

    Example:
        ```python
        >>> from mlcak_hf import load_vindr_cxr

        >>> dataset = load_vindr_cxr("vindr-cxr/1.0.0", size_px=128, num_proc=4)  # doctest: +SKIP
        >>> dataset["train"].features["label"].names  # doctest: +SKIP
        ['Normal', 'Abnormal']
        ```
    """
    builder = VinDrCXR(
        cache_dir=None if cache_dir is None else str(cache_dir), data_dir=str(data_dir), options=VinDrOptions(**choices)
    )
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)
