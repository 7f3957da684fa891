"""Local paths are reduced to their last part; text that only looks like a path is kept."""

from pathlib import Path

import pytest

from mlcak_hf.training.record import without_folders


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/dr_smith/runs/teacher", "teacher"),
        ("/home/dr_smith/runs/teacher/", "teacher"),
        (r"C:\Users\dr_smith\teacher", "teacher"),
        (Path("dr_smith/teacher"), "teacher"),
        ("gone/dr_smith/teacher", "teacher"),
        ("../dr_smith", "dr_smith"),
        ("~/dr_smith/t", "t"),
        ("here/run", "run"),
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("student-tiny-28", "student-tiny-28"),
        ("12 (4 A/B/C, 8 D)", "12 (4 A/B/C, 8 D)"),
        ("https://host/a/b/c", "https://host/a/b/c"),
        ("x" * 5000, "x" * 5000),
        ("", ""),
        (None, None),
        (0.5, 0.5),
        (["/a/b", ("/c/d", 3)], ["b", ["d", 3]]),
        ({"config": {"file": "/a/b.json"}}, {"config": {"file": "b.json"}}),
    ],
)
def test_only_the_last_part_of_a_path_is_kept(given, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "run").mkdir(parents=True)
    assert without_folders(given) == kept


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert without_folders(".") == "runs"
    assert without_folders("../runs/..") == tmp_path.name
