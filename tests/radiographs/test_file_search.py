"""A search for radiographs says what it left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlcak_hf.radiographs.file_search import search_radiographs


def test_skipped_kinds_are_counted_and_broken_links_listed(tmp_path: Path) -> None:
    for name in ("a.png", "b.bmp", "c.BMP", "d.tif", "e.webp", "DICOMDIR", "README", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    search = search_radiographs([tmp_path])
    assert search.files == [tmp_path / "a.png"]
    assert search.skipped == {".bmp": 2, ".tif": 1, ".webp": 1, "DICOMDIR": 1, "no suffix": 1}
    assert list(search.unreadable) == [tmp_path / "gone.dcm"]
    assert "link is broken" in search.unreadable[tmp_path / "gone.dcm"]


def test_links_to_folders_are_followed_and_each_folder_is_searched_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("elsewhere/a.png", "in/b.png", "in/sub/c.png"):
        (tmp_path / name).write_bytes(b"x")
    for name, target in (("link", "elsewhere"), ("same", "elsewhere"), ("loop", "in"), ("sub/up", "in")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    found = search_radiographs([tmp_path / "in"]).files
    assert found == [tmp_path / "in" / name for name in ("b.png", "link/a.png", "sub/c.png")]
    excluded = search_radiographs([tmp_path / "in"], exclude=[tmp_path / "elsewhere"]).files
    assert excluded == [tmp_path / "in" / name for name in ("b.png", "sub/c.png")]


def test_a_folder_that_cannot_be_opened_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    search = search_radiographs([tmp_path])
    assert search.unreadable == {tmp_path / "closed": "The folder cannot be opened (Permission denied)."}
