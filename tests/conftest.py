"""Settings that every test shares: offline, small threads, loud skips."""

import csv
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Each test process keeps its own cache of decoded images, so that no test finds what another one left.
CACHE = tempfile.TemporaryDirectory(prefix="mlcak-tests-")
os.environ["HF_DATASETS_CACHE"] = CACHE.name

import pytest  # noqa: E402
from vindr_factories import Votes, make_vindr, write_table  # noqa: E402

SHARED_DATA = Path(os.environ.get("MLCAK_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real chest X-rays that lies beside a development checkout (`MLCAK_SHARED_DATA` names another)."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"REAL DATA MISSING: no chest X-rays in {SHARED_DATA}; set MLCAK_SHARED_DATA to run this test")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `os.environ` back: `datasets.map` with several processes leaves a copy there, which rich does not see."""
    monkeypatch.setattr(os, "environ", os.environ)


@pytest.fixture
def mlcak(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `mlcak ARGUMENTS` and return (exit code, stdout, stderr)."""
    from mlcak_hf.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mlcak", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        # Python prints a code that is a text, and exits with 1.
        return (1, out, err + code) if isinstance(code, str) else (int(code or 0), out, err)

    return run


@pytest.fixture
def small_vindr(tmp_path: Path) -> Path:
    """Six training images read by three readers, two test images, a few boxes."""
    train: dict[str, Votes] = {
        "a1": {"R1": [], "R2": [], "R3": []},
        "a2": {"R1": ["Cardiomegaly"], "R2": ["Cardiomegaly", "Edema"], "R3": []},
        "a3": {"R1": ["Edema"], "R2": ["Pneumothorax"], "R3": []},
        "a4": {"R4": ["Pneumonia"], "R5": ["Pneumonia", "Consolidation"], "R6": ["Pneumonia"]},
        "a5": {"R1": ["Nodule/Mass"], "R2": [], "R3": []},
        "a6": {"R1": ["Other diseases"], "R2": ["Other diseases"], "R3": ["Other diseases"]},
    }
    test = {"t1": [], "t2": ["Cardiomegaly", "Other diseases"]}
    train_boxes = [
        ["a1", "R1", "No finding", "", "", "", ""],
        ["a2", "R1", "Cardiomegaly", 5, 20, 25.5, 35],
        ["a2", "R2", "Cardiomegaly", 6, 21, 26, 36],
        ["a4", "R5", "Consolidation", 1, 2, 3, 4],
        ["a2", "R2", "Edema", 2, 3, 9, 12],
        ["a3", "R1", "Edema", 2, 4, 9, 12],
        ["a3", "R2", "Pneumothorax", 2, 5, 9, 12],
        ["a5", "R1", "Nodule/Mass", 2, 6, 9, 12],
    ]
    test_boxes = [["t2", "Cardiomegaly", 4, 19, 27, 37], ["t1", "No finding", "", "", "", ""]]
    return make_vindr(tmp_path / "vindr", train, test, train_boxes, test_boxes)


@pytest.fixture
def edit_table() -> Callable[..., None]:
    """Rewrite one CSV file through a function of its lines."""

    def edit(path: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = change(list(csv.reader(stream)))
        write_table(path, header, rows)

    return edit
