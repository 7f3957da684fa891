"""Several machines, one dataset: every part's shards, once, or a clear word about what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from vindr_factories import make_vindr

from mlcak_hf.errors import DatasetError, DicomError
from mlcak_hf.preparation.merge import merge_prepared
from mlcak_hf.preparation.prepare import SOURCE_STATE_FILE, PartReport, prepare_part
from mlcak_hf.preparation.shards import plan
from mlcak_hf.vindr_cxr.options import VinDrOptions
from mlcak_hf.vindr_cxr.vindr_source import VinDrSource, prepare_vindr_cxr

CHOICES = {"size_px": 32}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    """Thirteen training and four test images: 7 shards of three."""
    train = {f"a{i:02d}": {r: ["Edema"] if i % 3 else [] for r in ("R1", "R2", "R3")} for i in range(13)}
    return make_vindr(tmp_path / "vindr", train, {f"t{i}": [] for i in range(4)})


@pytest.fixture
def unsplit(vindr, tmp_path) -> dict[str, bytes]:
    prepare_vindr_cxr(vindr, tmp_path / "unsplit", **CHOICES)
    return content(tmp_path / "unsplit")


def content(folder: Path) -> dict[str, bytes]:
    """Files of the dataset, without the state of the source that it was made from."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SOURCE_STATE_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def part(vindr: Path, output: Path, index: int, count: int, overwrite: bool = False, **choices) -> PartReport:
    source = VinDrSource(vindr, VinDrOptions(**{"size_px": 32} | choices))
    return prepare_part(source, output, (index, count), overwrite=overwrite)


def test_machines_can_share_a_folder(vindr, tmp_path, unsplit) -> None:
    out = tmp_path / "out"
    reports = [part(vindr, out, index, 3) for index in (2, 0, 1)]
    assert [(r.written, r.found, r.finished, r.of) for r in reports] == [(2, 0, 2, 7), (3, 0, 5, 7), (2, 0, 7, 7)]
    assert not out.exists()
    report = merge_prepared(out)
    assert content(out) == unsplit
    assert not (tmp_path / "out.partial").exists()
    assert report.sources["train"] == {"found": 13, "used": 13, "skipped": 0}


def test_folders_of_separate_machines_can_be_merged(vindr, tmp_path, unsplit) -> None:
    for index in range(3):
        # Each has a copy of the source, with other times of change.
        source = shutil.copytree(vindr, tmp_path / f"machine-{index}" / "vindr", copy_function=shutil.copyfile)
        part(source, tmp_path / f"machine-{index}" / "out", index, 3)
        shutil.copytree(tmp_path / f"machine-{index}" / "out.partial", tmp_path / "here" / f"{index}.partial")
    shutil.rmtree(vindr)  # the merging machine needs no source
    parts = [tmp_path / "here" / f"{index}.partial" for index in range(3)]
    merge_prepared(tmp_path / "here" / "out", parts)
    assert content(tmp_path / "here" / "out") == unsplit
    assert all(len(list(folder.rglob("*.parquet"))) in (2, 3) for folder in parts)  # they stay
    merge_prepared(tmp_path / "again", [folder.with_suffix("") for folder in parts])  # named as the output was
    assert content(tmp_path / "again") == unsplit


def test_a_part_resumes_and_plain_prepare_does_the_rest(vindr, tmp_path, unsplit) -> None:
    out = tmp_path / "out"
    part(vindr, out, 0, 2)
    next((tmp_path / "out.partial" / "dataset" / "data").iterdir()).unlink()
    report = part(vindr, out, 0, 2)
    assert (report.written, report.found) == (1, 3)
    prepare_vindr_cxr(vindr, out, **CHOICES)
    assert content(out) == unsplit


def test_parts_may_have_any_name(vindr, tmp_path, unsplit) -> None:
    for index in range(2):
        part(vindr, tmp_path / f"machine-{index}", index, 2)
        (tmp_path / f"machine-{index}.partial").rename(tmp_path / f"from machine {index}")
    merge_prepared(tmp_path / "out", [tmp_path / f"from machine {index}" for index in range(2)])
    assert content(tmp_path / "out") == unsplit
    states = [(tmp_path / name / SOURCE_STATE_FILE).read_text() for name in ("out", "unsplit")]
    assert states[0] == states[1]


def test_copies_of_the_source_leave_nothing_to_say_about_its_state(vindr, tmp_path) -> None:
    for index in range(2):
        source = shutil.copytree(vindr, tmp_path / f"source-{index}", copy_function=shutil.copyfile)
        part(source, tmp_path / f"machine-{index}", index, 2)
    merge_prepared(tmp_path / "out", [tmp_path / f"machine-{index}" for index in range(2)])
    assert not (tmp_path / "out" / SOURCE_STATE_FILE).exists()


def test_merging_again_finds_it_done(vindr, tmp_path, unsplit, caplog) -> None:
    part(vindr, tmp_path / "out", 0, 1)
    first = merge_prepared(tmp_path / "out")
    assert merge_prepared(tmp_path / "out") == first
    assert "is already complete; nothing to do" in caplog.text
    assert content(tmp_path / "out") == unsplit


def test_parts_of_corrected_images_replace_a_complete_dataset_only_when_asked(vindr, tmp_path, unsplit) -> None:
    """The state of other machines' images is unknown, but their shards differ."""
    for image in vindr.glob("train/*.dicom"):
        image.write_bytes(image.read_bytes().replace(b"MONOCHROME2 ", b"MONOCHROME1 "))
    part(vindr, tmp_path / "corrected", 0, 1)
    parts = [tmp_path / "corrected"]
    with pytest.raises(DatasetError, match=r"is complete, but .*corrected.* holds other images.*\(--overwrite\)"):
        merge_prepared(tmp_path / "unsplit", parts)
    assert content(tmp_path / "unsplit") == unsplit
    merge_prepared(tmp_path / "unsplit", parts, overwrite=True)
    assert content(tmp_path / "unsplit") != unsplit
    merge_prepared(tmp_path / "unsplit", parts)  # found done


def test_a_part_of_corrected_images_names_the_remedy_that_works(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "out", 0, 2)
    (vindr / "train" / "a00.dicom").touch()
    with pytest.raises(DatasetError, match=r"modified since\. Remove that folder, and start every part again\.$"):
        part(vindr, tmp_path / "out", 1, 2)


def test_a_part_of_other_choices_names_the_remedy_that_works(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "out", 0, 2)
    with pytest.raises(DatasetError, match=r"size_px 32 instead of 28\. Remove that folder") as raised:
        part(vindr, tmp_path / "out", 1, 2, size_px=28, overwrite=True)
    assert "--overwrite" not in str(raised.value)


def test_missing_shards_are_named(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "out", 0, 2)
    missing = "train-00001-of-00004, train-00003-of-00004, test-00000-of-00002"
    with pytest.raises(DatasetError, match=f"3 of 7 shards are missing: {missing}. Finish every part"):
        merge_prepared(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match=r"nowhere\.partial holds no unfinished dataset"):
        merge_prepared(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"nowhere\.partial holds no unfinished dataset"):
        merge_prepared(tmp_path / "out", [tmp_path / "nowhere"])


def test_parts_of_different_datasets_are_refused(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "a", 0, 2)
    part(vindr, tmp_path / "b", 1, 2, size_px=16)
    with pytest.raises(
        DatasetError, match=r"must be parts of the same dataset; the first has size_px 32 instead of 16"
    ):
        merge_prepared(tmp_path / "out", [tmp_path / "a.partial", tmp_path / "b.partial"])
    (vindr / "train" / "a00.dicom").write_bytes(b"another file")
    part(vindr, tmp_path / "c", 1, 2, on_error="skip")
    with pytest.raises(DatasetError, match="must be parts of the same dataset; the first has other tables or images"):
        merge_prepared(tmp_path / "out", [tmp_path / "a.partial", tmp_path / "c.partial"])
    assert not list(tmp_path.glob("out*"))


def test_two_equal_copies_of_a_shard_count_once(vindr, tmp_path, unsplit) -> None:
    part(vindr, tmp_path / "a", 0, 1)
    part(vindr, tmp_path / "b", 0, 2)
    twice = sorted((tmp_path / "b.partial").rglob("*.parquet"))[0]
    whole = twice.read_bytes()
    twice.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    with pytest.raises(DatasetError, match="are the same shard but differ"):
        merge_prepared(tmp_path / "out", [tmp_path / "a.partial", tmp_path / "b.partial"])
    twice.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="is not a complete shard"):
        merge_prepared(tmp_path / "out", [tmp_path / "a.partial", tmp_path / "b.partial"])
    twice.write_bytes(whole)
    merge_prepared(tmp_path / "out", [tmp_path / "a.partial", tmp_path / "b.partial"])
    assert content(tmp_path / "out") == unsplit


def test_an_older_dataset_is_replaced_only_when_asked(vindr, tmp_path, unsplit) -> None:
    out = tmp_path / "out"
    prepare_vindr_cxr(vindr, out, **CHOICES | {"size_px": 16})
    with pytest.raises(DatasetError, match="is not empty"):
        part(vindr, out, 0, 1)
    part(vindr, out, 0, 1, overwrite=True)
    with pytest.raises(DatasetError, match="is not empty"):
        merge_prepared(out)
    merge_prepared(out, overwrite=True)
    assert content(out) == unsplit


def test_a_part_never_removes_what_others_may_be_writing(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "out", 0, 2)
    with pytest.raises(DatasetError, match="holds unfinished work that does not match"):
        part(vindr, tmp_path / "out", 1, 2, size_px=16, overwrite=True)
    foreign = tmp_path / "out.partial" / "unfinished" / "train-00001-of-00004.0123"
    foreign.write_bytes(b"half of it")
    part(vindr, tmp_path / "out", 0, 2)
    assert foreign.exists()
    part(vindr, tmp_path / "out", 1, 2)  # its own
    assert not foreign.exists()


def test_an_unknown_file_among_the_shards_is_not_published(vindr, tmp_path) -> None:
    part(vindr, tmp_path / "out", 0, 1)
    (tmp_path / "out.partial" / "dataset" / "data" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"notes\.txt, which is not a shard of this dataset"):
        merge_prepared(tmp_path / "out")


@pytest.mark.parametrize("wrong", [(2, 2), (-1, 2), (0, 0)])
def test_parts_that_do_not_exist_are_refused(vindr, tmp_path, wrong) -> None:
    with pytest.raises(DatasetError, match=rf"0 <= I < N; got {wrong[0]}/{wrong[1]}"):
        part(vindr, tmp_path / "out", *wrong)


def test_there_may_be_more_parts_than_shards(vindr, tmp_path) -> None:
    assert part(vindr, tmp_path / "out", 9, 10).written == 0


def test_skipped_images_of_all_parts_are_accounted_for(vindr, tmp_path) -> None:
    for name in ("train/a01", "test/t3"):
        (vindr / f"{name}.dicom").write_bytes(b"cut off")
    with pytest.raises(DicomError):
        [part(vindr, tmp_path / "out", index, 2) for index in range(2)]
    for index in range(2):
        part(vindr, tmp_path / "out", index, 2, on_error="skip")
    report = merge_prepared(tmp_path / "out")
    assert [(r.folder, r.image_id) for r in report.skipped] == [("test", "t3"), ("train", "a01")]
    assert report.sources == {
        "train": {"found": 13, "used": 12, "skipped": 1},
        "test": {"found": 4, "used": 3, "skipped": 1},
    }
