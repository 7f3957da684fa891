"""What the processes of one preparation tell the one that started them: images left out or doubtful, why it stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.utils import logging

from ..vindr_cxr.layout import LeftOut
from .suspect_images import Doubts

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class PreparationNotes:
    """A folder of small files, one per process, as several may write at once.

    Args:
        folder: Where they lie, beside the prepared dataset; None for a stream, which can only log.
    """

    folder: Path | None

    def clear(self) -> None:
        """Start anew, before a dataset is prepared."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def leave_out(self, records: Sequence[LeftOut]) -> None:
        """Record images that are not in the dataset."""
        if self.folder is None:
            for record in records:
                logger.warning(f"left out: {record.folder}/{record.image_id}: {record.reason}")
            return
        with (self.folder / f"left-out-{os.getpid()}.jsonl").open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record._asdict()) + "\n" for record in records)

    def doubt(self, doubts: Doubts) -> None:
        """Record images that are in the dataset, though something about them seems wrong."""
        if self.folder is None:
            for _, sentence, ids in doubts.sentences():
                logger.warning(f"{ids[0]}: {sentence}")
        elif any(asdict(doubts).values()):
            with (self.folder / f"doubts-{os.getpid()}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(doubts)) + "\n")

    def stop(self, reason: str) -> None:
        """Record why the preparation cannot go on: from another process only the text of an error would arrive."""
        if self.folder is not None:
            (self.folder / f"error-{os.getpid()}.txt").write_text(reason, encoding="utf-8")

    @property
    def left_out(self) -> list[LeftOut]:
        """All left-out images, by folder and image id."""
        records = [LeftOut(**json.loads(line)) for text in self._texts("left-out-*") for line in text.splitlines()]
        return sorted(records, key=lambda record: (record.folder, record.image_id))

    @property
    def doubts(self) -> Doubts:
        """All doubtful images, of each kind by id."""
        found = Doubts()
        for text in self._texts("doubts-*"):
            for line in text.splitlines():
                found.add(Doubts(**json.loads(line)))
        return Doubts(**{kind: sorted(ids) for kind, ids in asdict(found).items()})

    @property
    def stopped_by(self) -> str | None:
        """The reason given to `stop`, by whichever process came first; None if none did."""
        return next(iter(self._texts("error-*")), None)

    def _texts(self, pattern: str) -> list[str]:
        files = [] if self.folder is None else sorted(self.folder.glob(pattern))
        return [path.read_text(encoding="utf-8") for path in files]
