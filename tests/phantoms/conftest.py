"""A small dataset of phantoms, shared by the tests of this folder."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from mlcak_hf.phantoms.writer import PhantomReport, write_phantoms

NUM_TRAIN, NUM_TEST, SIZE_PX, SEED = 30, 12, 128, 5

Rows = list[dict[str, str]]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> PhantomReport:
    """Phantoms on disk, made by one process."""
    root = tmp_path_factory.mktemp("phantoms") / "data"
    return write_phantoms(root, num_train=NUM_TRAIN, num_test=NUM_TEST, size_px=SIZE_PX, seed=SEED)


@pytest.fixture(scope="session")
def table(phantoms: PhantomReport) -> Callable[[str], Rows]:
    """Reads one of the CSV files by its name within the folder."""

    def read(name: str) -> Rows:
        with (Path(phantoms.output_dir) / name).open(newline="") as file:
            return list(csv.DictReader(file))

    return read
