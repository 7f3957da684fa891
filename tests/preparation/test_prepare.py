"""The Parquet folder: read by plain `load_dataset`, complete or absent, and without a trace of a patient."""

from __future__ import annotations

import csv
import io
import json
import os
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from rich.console import Console
from vindr_factories import PATIENT_TAGS, make_vindr, vindr_features

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import DatasetColumns, Targets
from mlcak_hf.data.sources import RadiographDataset, open_dataset
from mlcak_hf.errors import DatasetError, DicomError
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.preparation.shards import plan
from mlcak_hf.preparation.source import SkippedImage
from mlcak_hf.radiographs.read import read_radiograph
from mlcak_hf.vindr_cxr.builder import load_vindr_cxr
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr


@pytest.fixture
def prepare(small_vindr, tmp_path):
    """`prepare_vindr_cxr` from the small folder to `out`."""

    def call(**choices) -> PreparationReport:
        return prepare_vindr_cxr(small_vindr, tmp_path / "out", **{"validation_fraction": 0.2} | choices)

    return call


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "load"))


@pytest.mark.parametrize("aggregation", ["majority", "mean", "none"])
def test_load_dataset_reads_the_same_rows_and_features(prepare, small_vindr, tmp_path, aggregation) -> None:
    report = prepare(aggregation=aggregation)
    prepared = load(report.output_dir, tmp_path)
    direct = load_vindr_cxr(
        small_vindr, aggregation=aggregation, validation_fraction=0.2, cache_dir=tmp_path / "direct"
    )
    assert set(prepared) == {"train", "validation", "test"}
    for split in direct:
        assert prepared[split].features == direct[split].features == vindr_features(aggregation)
        assert prepared[split].with_format("arrow")[:].equals(direct[split].with_format("arrow")[:])


def test_a_dataset_prepared_again_in_the_same_folder_is_read_again(prepare, tmp_path) -> None:
    """`datasets` once answered from its cache of the folder as it was before."""
    assert load(prepare(aggregation="majority").output_dir, tmp_path)["train"].features == vindr_features("majority")
    again = load(prepare(aggregation="mean", overwrite=True).output_dir, tmp_path)
    assert again["train"].features == vindr_features("mean")


@pytest.mark.parametrize("num_proc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_folder_holds_shards_card_and_record_and_nothing_else(prepare, tmp_path, num_proc, monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)
    report = prepare(num_proc=num_proc)
    names = {str(path.relative_to(report.output_dir)) for path in report.output_dir.rglob("*") if path.is_file()}
    shards = {"train": 2, "validation": 1, "test": 1}
    parquet = {f"data/{s}-{i:05d}-of-{n:05d}.parquet" for s, n in shards.items() for i in range(n)}
    assert names == {"README.md", "preparation.json", ".source-state", *parquet}
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}  # nothing half-made stays beside it
    assert [row["image_id"] for row in load(report.output_dir, tmp_path)["test"]] == ["t1", "t2"]


def test_what_the_report_and_the_record_say(prepare, tmp_path) -> None:
    report = prepare(voi="percentile", annotated=["Cardiomegaly"])
    splits = load(report.output_dir, tmp_path)
    for name, summary in report.splits.items():
        assert summary.image_ids == splits[name]["image_id"][:]
        assert summary.images == summary.rows == summary.groups == len(splits[name])
        assert summary.abnormal == sum(splits[name]["label"])
        assert summary.normal == summary.rows - summary.abnormal
    assert report.sources == {
        "train": {"found": 6, "used": 6, "skipped": 0},
        "test": {"found": 2, "used": 2, "skipped": 0},
    }
    preparation = PreparationReport.read(report.output_dir)
    assert preparation.splits["validation"].image_ids == report.splits["validation"].image_ids
    assert preparation.choices == report.choices
    assert preparation.choices["voi"] == "percentile"
    assert preparation.choices["annotated"] == ["Cardiomegaly", "No finding"]
    assert preparation.skipped == []
    assert "pydicom" in preparation.software
    assert str(tmp_path) not in (report.output_dir / "preparation.json").read_text()


def test_half_of_the_readers_do_not_make_an_image_abnormal(tmp_path) -> None:
    root = make_vindr(tmp_path / "v", {"a1": {"R1": [], "R2": ["Edema"]}, "a2": {"R1": ["Edema"]}}, {"t1": []})
    train = prepare_vindr_cxr(root, tmp_path / "o", aggregation="mean", validation_fraction=0).splits["train"]
    assert (train.normal, train.abnormal) == (1, 1)


def test_preparing_twice_writes_the_same_bytes(prepare) -> None:
    def content(report):
        return {p.name: p.read_bytes() for p in report.output_dir.rglob("*") if p.is_file()}

    assert content(prepare()) == content(prepare(overwrite=True))


def test_the_card_describes_the_dataset(prepare) -> None:
    report = prepare()
    card = DatasetCard.load(report.output_dir / "README.md")
    assert card.data.license == "other"
    assert card.data.task_categories == ["image-classification"]
    files = {entry["split"]: entry["path"] for entry in card.data.to_dict()["configs"][0]["data_files"]}
    assert files == {s: f"data/{s}-*" for s in ("train", "validation", "test")}
    assert "Do not pass this folder on" in card.text
    assert "Research use only" in card.text
    assert "nguyen2022vindr" in card.text
    assert "| test | 2 | 2 | 1 | 1 | 2 |" in card.text
    assert "No image was left out" in card.text
    assert "{{ " not in card.text
    assert "{%" not in card.text


def test_no_patient_data_reaches_the_folder(prepare, small_vindr, tmp_path) -> None:
    cut_off = small_vindr / "train" / "a4.dicom"
    cut_off.write_bytes(cut_off.read_bytes()[:900])
    groups = tmp_path / "groups.csv"
    groups.write_text(
        "image_id,group_id\n" + "".join(f"{i},SECRET-{i}\n" for i in ["a1", "a2", "a3", "a4", "a5", "a6", "t1", "t2"])
    )
    report = prepare(groups=groups, on_error="skip")
    assert [record.image_id for record in report.skipped] == ["a4"]
    secrets = [*PATIENT_TAGS.values(), "SECRET"]
    assert any(b"SECRET" in path.read_bytes() for path in (small_vindr / "train").iterdir())  # they are in the source
    for path in report.output_dir.rglob("*"):
        if not path.is_file():
            continue
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":  # pages may be compressed: look into every cell as well
            texts += [str(row).encode() + row["image"]["bytes"] for row in pq.read_table(path).to_pylist()]
        for secret in secrets:
            assert not any(secret.encode() in text for text in texts), (path, secret)


@pytest.mark.slow
def test_skipped_images_are_listed_everywhere(prepare, small_vindr) -> None:
    (small_vindr / "train" / "a1.dicom").write_bytes(b"")
    (small_vindr / "test" / "t1.dicom").unlink()
    with pytest.raises(DatasetError, match="without a file in test/: t1"):
        prepare()
    report = prepare(on_error="skip", num_proc=2)
    assert [(r.folder, r.image_id) for r in report.skipped] == [("test", "t1"), ("train", "a1")]
    assert "without a file in test/" in report.skipped[0].reason
    assert report.skipped[1].reason.startswith("a1.dicom: The file is empty")
    assert report.sources["train"] == {"found": 6, "used": 5, "skipped": 1}
    assert report.sources["test"] == {"found": 2, "used": 1, "skipped": 1}
    recorded = PreparationReport.read(report.output_dir).skipped
    assert recorded == report.skipped
    text = (report.output_dir / "README.md").read_text()
    assert "2 image(s) were left out" in text
    assert "1 image(s) of train/" in text
    terminal = io.StringIO()
    Console(file=terminal, width=300).print(report.table(), report.skipped_table())
    assert "a1.dicom: The file is empty" in terminal.getvalue()
    assert "validation" in terminal.getvalue()


def test_brackets_in_a_reason_reach_the_terminal(tmp_path) -> None:
    reason = "no decoder for JPEG Lossless (Process 14 [Selection Value 1])"
    report = PreparationReport(tmp_path, "", {}, {}, {}, {}, [], [SkippedImage("a1", reason, "train")], {})
    terminal = io.StringIO()
    Console(file=terminal, width=200).print(report.skipped_table())
    assert reason in terminal.getvalue()


def test_a_failure_leaves_no_dataset(prepare, small_vindr, tmp_path) -> None:
    (small_vindr / "test" / "t2.dicom").write_bytes(b"cut off")
    with pytest.raises(DicomError, match=r"t2\.dicom: .*--on-error skip"):
        prepare()
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out.partial"}


def test_an_empty_split_is_an_error(prepare, small_vindr, tmp_path) -> None:
    for path in (small_vindr / "test").iterdir():
        path.write_bytes(b"cut off")
    with pytest.raises(DatasetError, match="No image of the split test could be read"):
        prepare(on_error="skip")
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out.partial"}


def test_only_a_prepared_dataset_is_overwritten(prepare, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty is fine
    prepare(seed=1)
    with pytest.raises(DatasetError, match=r"another dataset: seed 1 instead of 0\. .*--overwrite"):
        prepare()
    assert PreparationReport.read(out).choices["seed"] == 1
    prepare(seed=2, overwrite=True)
    assert PreparationReport.read(out).choices["seed"] == 2
    (out / "preparation.json").unlink()
    with pytest.raises(DatasetError, match="not a prepared dataset"):
        prepare(overwrite=True)
    assert (out / "README.md").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="must be a folder; got the file"):
        prepare_vindr_cxr(tmp_path / "vindr", tmp_path / "file")


def test_an_old_dataset_survives_a_failed_replacement(prepare, small_vindr, tmp_path, monkeypatch) -> None:
    prepare(seed=1)
    rename = Path.rename

    def fail(self, target):
        if self.name == "dataset":
            raise OSError("disk went away")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DatasetError, match=r"Cannot write .*disk went away.*the same command continues"):
        prepare(seed=2, overwrite=True)
    assert PreparationReport.read(tmp_path / "out").choices["seed"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out", "out.partial"}
    monkeypatch.undo()
    prepare(seed=2, overwrite=True)
    assert PreparationReport.read(tmp_path / "out").choices["seed"] == 2


def test_a_missing_source_makes_no_output(tmp_path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        prepare_vindr_cxr(tmp_path / "nowhere", tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_report_is_refused(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"does not exist\. Name a folder that `mlcak prepare` wrote"):
        PreparationReport.read(tmp_path)
    (tmp_path / "preparation.json").write_text("{")
    with pytest.raises(DatasetError, match="is damaged"):
        PreparationReport.read(tmp_path)
    (tmp_path / "preparation.json").write_text('{"format_version": 99}')
    with pytest.raises(DatasetError, match="format_version 3; got 99"):
        PreparationReport.read(tmp_path)


def test_another_size_and_fit_can_be_prepared(tmp_path) -> None:
    root = make_vindr(
        tmp_path / "v", {"a1": {"R1": []}, "a2": {"R1": ["Edema"]}}, {"t1": []}, photometric="MONOCHROME1"
    )
    prepare_vindr_cxr(root, tmp_path / "o", size_px=64, fit="squash", validation_fraction=0)
    dataset = load(tmp_path / "o", tmp_path)
    assert set(dataset) == {"train", "test"}
    assert dataset["train"][0]["image"].size == (64, 64)
    assert dataset["train"][0]["image"].mode == "L"


@pytest.mark.slow
def test_real_radiographs_end_to_end(shared_data, tmp_path) -> None:
    """The whole of the development data, with patients: counts, and no patient in two splits."""
    groups = shared_data / "nih-in-vindr-layout-groups.csv"
    report = prepare_vindr_cxr(shared_data / "nih-in-vindr-layout", tmp_path / "out", groups=groups, num_proc=2)
    assert report.splits["train"].images + report.splits["validation"].images == 581
    assert 80 <= report.splits["validation"].images <= 95
    test = report.splits["test"]
    assert (test.images, test.normal, test.abnormal) == (128, 52, 76)
    with groups.open(newline="") as stream:
        patient = {row["image_id"]: row["group_id"] for row in csv.DictReader(stream)}
    patients = [{patient[i] for i in summary.image_ids} for summary in report.splits.values()]
    assert sum(map(len, patients)) == len(set().union(*patients))
    splits = load(tmp_path / "out", tmp_path)
    rows = [row for name in ("train", "validation") for row in splits[name].remove_columns("image")]
    positives = {name: sum(row["findings"][name] for row in rows) for name in ("Infiltration", "Edema", "Pneumothorax")}
    assert positives == {"Infiltration": 102, "Edema": 51, "Pneumothorax": 6}
    assert sum(row["global_labels"]["Pneumonia"] for row in rows) == 276
    assert all(value in (0, 3) for row in rows for value in row["votes"].values())


def test_streaming_reads_the_same_rows(prepare, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 2)
    folder = prepare(aggregation="none").output_dir
    rows, streamed = load(folder, tmp_path), load_dataset(str(folder), streaming=True)
    for split in rows:
        assert streamed[split].features == rows[split].features
        assert list(streamed[split].decode(False)) == list(
            rows[split].cast_column("image", datasets.Image(decode=False))
        )


def test_a_shard_without_a_readable_image_is_accepted(prepare, small_vindr, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 1)
    first = prepare().splits["train"].image_ids[0]
    (small_vindr / "train" / f"{first}.dicom").write_bytes(b"cut off")
    report = prepare(on_error="skip", overwrite=True)
    ids = report.splits["train"].image_ids
    assert first not in ids
    assert load(report.output_dir, tmp_path)["train"]["image_id"][:] == ids
    assert [row["image_id"] for row in load_dataset(str(report.output_dir), streaming=True)["train"]] == ids


@pytest.mark.parametrize("bits", [8, 16])
def test_stored_values_reach_the_processor_as_they_were_read(prepare, small_vindr, tmp_path, bits) -> None:
    """From the file to the model's input, through dataset, collator and processor: at most half a level off."""
    report = prepare(size_px=24, bits=bits)
    assert report.choices["bits"] == PreparationReport.read(report.output_dir).choices["bits"] == bits
    assert f"24 x 24 px, {bits}-bit grey PNG" in (report.output_dir / "README.md").read_text()
    splits = open_dataset(report.output_dir)
    config = MLCAKConfig(local_labels=["Cardiomegaly"])
    dataset = RadiographDataset(splits["train"], Targets(config, splits["train"], DatasetColumns()))
    assert dataset[0]["image"].mode == ("L" if bits == 8 else "I;16")
    processor = MLCAKImageProcessor(size={"height": 24, "width": 24}, do_normalize=False)
    pixels = MLCAKCollator(processor)([dataset[i] for i in range(len(dataset))])["pixel_values"][:, 0].numpy()
    for image_id, stored in zip(splits["train"]["image_id"], pixels, strict=True):
        read = read_radiograph(small_vindr / "train" / f"{image_id}.dicom", size_px=24)
        assert np.abs(stored - read).max() <= 0.5 / (2**bits - 1) + 1e-7
    assert len(np.unique(pixels)) > (300 if bits == 16 else 100)


def test_other_bits_are_refused(prepare) -> None:
    with pytest.raises(DatasetError, match="bits must be 8 or 16; got 12"):
        prepare(bits=12)


def test_every_shard_records_how_it_was_made(prepare, monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 4)
    report = prepare(voi="percentile", bits=16, fit="squash")
    for path in (report.output_dir / "data").iterdir():
        said = json.loads(pq.read_metadata(path).metadata[b"mlcak"])
        assert said["shard"] == path.stem
        assert said["choices"] == report.choices
        assert {"voi": "percentile", "bits": 16, "fit": "squash"}.items() <= said["choices"].items()
        assert said["software"]["pillow"] == version("pillow")
        assert said["fingerprint"] == report.fingerprint


def test_many_rows_come_in_small_groups(tmp_path) -> None:
    """A reader per row: 30 images make 90 rows, in groups of 64."""
    train = {f"a{i:02d}": {r: [] for r in ("R1", "R2", "R3")} for i in range(30)}
    root = make_vindr(tmp_path / "v", train, {"t1": []})
    prepare_vindr_cxr(root, tmp_path / "o", size_px=8, aggregation="none", validation_fraction=0)
    metadata = pq.ParquetFile(tmp_path / "o" / "data" / "train-00000-of-00001.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 26]
    assert load(tmp_path / "o", tmp_path)["train"]["image_id"][:] == [i for i in train for _ in range(3)]


def test_images_corrected_in_place_are_prepared_again_only_when_asked(prepare, small_vindr, tmp_path) -> None:
    """As when a wrong MONOCHROME1 is corrected: name and length of the file stay the same."""
    before = load(prepare().output_dir, tmp_path)["train"]["image"][0]
    assert prepare().splits  # complete already
    path = small_vindr / "train" / "a1.dicom"
    for image in small_vindr.glob("train/*.dicom"):
        image.write_bytes(image.read_bytes().replace(b"MONOCHROME2 ", b"MONOCHROME1 "))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))
    with pytest.raises(DatasetError, match=r"is complete, but images .* modified since. .* \(--overwrite\)"):
        prepare()
    after = load(prepare(overwrite=True).output_dir, tmp_path)["train"]["image"][0]
    assert not np.array_equal(np.asarray(before), np.asarray(after))
    (tmp_path / "out" / ".source-state").unlink()  # as where machines read copies of their own: nothing is claimed
    path.touch()
    assert prepare().splits


def test_the_root_of_a_file_system_is_refused_as_output(small_vindr) -> None:
    with pytest.raises(DatasetError, match=r"a folder of its own; got /\. Name a new folder in it"):
        prepare_vindr_cxr(small_vindr, "/")


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may read and write everything")
def test_an_output_without_permission_is_one_clear_error(prepare, small_vindr, tmp_path) -> None:
    (small_vindr / "train").chmod(0)
    with pytest.raises(DatasetError, match=r"train/ cannot be read \(Permission denied\)"):
        prepare()
    (small_vindr / "train").chmod(0o755)
    tmp_path.chmod(0o555)
    with pytest.raises(DatasetError, match=r"Cannot write .*out.*Permission denied"):
        prepare()
    tmp_path.chmod(0o755)
    assert prepare().splits["test"].images == 2


def test_an_output_that_cannot_be_made_is_one_clear_error(small_vindr, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match=r"Cannot write .*file/out: Not a directory"):
        prepare_vindr_cxr(small_vindr, tmp_path / "file" / "out")
