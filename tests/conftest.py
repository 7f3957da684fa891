"""Settings that every test shares: offline, small threads, loud skips."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

SHARED_DATA = Path(os.environ.get("MLCAK_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real chest X-rays that lies beside a development checkout (`MLCAK_SHARED_DATA` names another)."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"REAL DATA MISSING: no chest X-rays in {SHARED_DATA}; set MLCAK_SHARED_DATA to run this test")
    return SHARED_DATA
