"""A dataset of radiographs reaches the Hub with an acknowledgement, in a private repository, and nothing beside it."""

from pathlib import Path

import pytest
from loopback_hub import Repository, running_hub
from test_round_trip import run_fresh

from mlcak_hf.phantoms.writer import write_phantoms
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr


@pytest.mark.slow
def test_a_private_dataset_of_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    write_phantoms(tmp_path / "phantoms", num_train=6, num_test=2, size_px=64)
    prepare_vindr_cxr(tmp_path / "phantoms", folder, size_px=32)
    (folder / "reading-notes.txt").write_text("mine")
    (folder / "data" / "original.dicom").write_bytes(b"DICM")
    public, new = "radiology-lab/public", "radiology-lab/phantoms"
    with running_hub() as hub:
        hub.repositories[public] = Repository("public", "dataset")
        done = run_fresh("publish_a_dataset.py", str(folder), public, new, hub=hub, home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
    assert list(hub.repositories[public].commits.values()) == [{}]
    repository = hub.repositories[new]
    assert (repository.visibility, repository.kind) == ("private", "dataset")
    files = repository.commits[repository.refs["main"]]
    expected = {"README.md", "preparation.json", *(f"data/{path.name}" for path in folder.glob("data/*.parquet"))}
    assert set(files) == hub.offered == expected  # what lay beside them was not even announced
    assert all(content == (folder / name).read_bytes() for name, content in files.items())
