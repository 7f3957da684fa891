"""The folder has exactly the layout of VinDr-CXR, whatever the number of processes."""

import csv
import re
from pathlib import Path

import pydicom
import pytest
from huggingface_hub import DatasetCard

from mlcak_hf.errors import DatasetError
from mlcak_hf.phantoms.dicom_format import TRANSFER_SYNTAXES
from mlcak_hf.phantoms.plan import DRAWN_FINDINGS, image_id
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.phantoms.writer import write_phantoms
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr

FINDINGS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion"
)
HEADERS = {
    "image_labels_train.csv": (
        f"image_id,rad_id,{FINDINGS},COPD,Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding"
    ),
    "image_labels_test.csv": f"image_id,{FINDINGS},COPD,Lung tumor,Pneumonia,Tuberculosis,Other disease,No finding",
    "annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
    "annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max",
}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", HEADERS)
def test_columns_are_those_of_vindr_cxr(phantoms, name):
    assert (phantoms.output_dir / "annotations" / name).read_text().splitlines()[0] == HEADERS[name]


@pytest.mark.parametrize("name", HEADERS)
def test_columns_are_those_of_real_files_in_the_layout(shared_data, name):
    real = shared_data / "nih-in-vindr-layout" / "annotations" / name
    assert real.read_text().splitlines()[0] == HEADERS[name]


def test_files_and_tables_name_the_same_images(phantoms, table):
    for split, count in (("train", 30), ("test", 12)):
        files = {p.name for p in (phantoms.output_dir / split).iterdir()}
        assert len(files) == count == phantoms.num_images[split]
        assert all(re.fullmatch(r"[0-9a-f]{32}\.dicom", name) for name in files)
        for name in (f"image_labels_{split}", f"annotations_{split}"):
            assert {row["image_id"] + ".dicom" for row in table(f"annotations/{name}.csv")} == files
    assert {p.name for p in phantoms.output_dir.iterdir()} == {
        "train",
        "test",
        "annotations",
        "groups.csv",
        "phantom.json",
    }


def test_three_different_readers_read_every_train_image(table):
    readers: dict[str, list[str]] = {}
    for row in table("annotations/image_labels_train.csv"):
        readers.setdefault(row["image_id"], []).append(row["rad_id"])
    assert all(len(set(names)) == len(names) == 3 for names in readers.values())
    assert {name for names in readers.values() for name in names} <= {f"R{k}" for k in range(1, 18)}
    assert len({name for names in readers.values() for name in names}) > 8


def test_boxes_and_labels_agree(table):
    for split in ("train", "test"):
        boxed: dict[tuple[str, str], set[str]] = {}
        for row in table(f"annotations/annotations_{split}.csv"):
            boxed.setdefault((row["image_id"], row.get("rad_id", "")), set()).add(row["class_name"])
            assert (row["x_min"] == "") == (row["class_name"] == "No finding")
        labels = table(f"annotations/image_labels_{split}.csv")
        assert len(labels) == len(boxed)
        for row in labels:
            local = {name for name in FINDINGS.split(",") if row[name] == "1"}
            assert boxed[row["image_id"], row.get("rad_id", "")] == (local or {"No finding"})
            assert (row["No finding"] == "1") == (not local)
            assert local <= set(DRAWN_FINDINGS)
            diagnoses = [k for k in list(row)[-6:-1] if row[k] == "1"]
            assert bool(diagnoses) == bool(local)


def test_the_consensus_of_test_images_is_the_truth(table):
    rows = table("annotations/annotations_test.csv")
    for index in range(12):
        found = [row for row in rows if row["image_id"] == image_id(5, "test", index) and row["x_min"]]
        boxes = [(r["class_name"], r["x_min"], r["y_min"], r["x_max"], r["y_max"]) for r in found]
        truth = render_phantom(5, "test", index, 128).findings
        assert boxes == [(f.name, *(f"{edge:.3f}" for edge in box)) for f in truth for box in f.boxes]


def test_boxes_are_inside_the_image(phantoms, table):
    for split in ("train", "test"):
        for row in table(f"annotations/annotations_{split}.csv"):
            if row["class_name"] == "No finding":
                continue
            ds = pydicom.dcmread(phantoms.output_dir / split / f"{row['image_id']}.dicom", stop_before_pixels=True)
            x_min, y_min, x_max, y_max = (float(row[k]) for k in ("x_min", "y_min", "x_max", "y_max"))
            assert 0 <= x_min < x_max <= ds.Columns
            assert 0 <= y_min < y_max <= ds.Rows


def test_report_counts_agree_with_the_test_table(phantoms, table):
    rows = table("annotations/image_labels_test.csv")
    for name in DRAWN_FINDINGS:
        assert phantoms.finding_counts["test"][name] == sum(row[name] == "1" for row in rows)
    assert phantoms.num_abnormal["test"] == sum(row["No finding"] == "0" for row in rows)


def test_groups_cover_every_image_and_some_patients_have_two(phantoms):
    with phantoms.groups_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "group_id"]
    assert len({row["image_id"] for row in rows}) == len(rows) == 42
    sizes: dict[str, int] = {}
    splits: dict[str, set[str]] = {}
    for row in rows:
        sizes[row["group_id"]] = sizes.get(row["group_id"], 0) + 1
        split = "train" if (phantoms.output_dir / "train" / f"{row['image_id']}.dicom").exists() else "test"
        splits.setdefault(row["group_id"], set()).add(split)
    assert set(sizes.values()) == {1, 2}
    assert all(len(names) == 1 for names in splits.values())


def test_every_transfer_syntax_occurs_and_decodes(phantoms):
    seen = set()
    for path in phantoms.output_dir.rglob("*.dicom"):
        ds = pydicom.dcmread(path)
        seen.add(ds.file_meta.TransferSyntaxUID)
        pixels = ds.pixel_array
        assert pixels.shape == (ds.Rows, ds.Columns)
        assert pixels.min() >= (-(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0)
        assert pixels.max() < 2 ** (ds.BitsStored - ds.PixelRepresentation)
        assert str(ds.PatientName).startswith("PHANTOM^")
    assert seen == set(TRANSFER_SYNTAXES)
    assert sum(phantoms.transfer_syntaxes.values()) == 42


@pytest.mark.slow
def test_number_of_processes_changes_no_byte(phantoms, tmp_path):
    again = write_phantoms(tmp_path / "p", num_train=30, num_test=12, size_px=128, seed=5, num_proc=2)
    assert contents(again.output_dir) == contents(phantoms.output_dir)


def test_more_images_do_not_change_the_first_and_another_seed_changes_all(phantoms, tmp_path):
    few = write_phantoms(tmp_path / "few", num_train=3, num_test=0, size_px=128, seed=5)
    for path in (few.output_dir / "train").iterdir():
        assert path.read_bytes() == (phantoms.output_dir / "train" / path.name).read_bytes()
    other = write_phantoms(tmp_path / "other", num_train=3, num_test=0, size_px=128, seed=6)
    assert not {p.name for p in (other.output_dir / "train").iterdir()} & {
        p.name for p in (phantoms.output_dir / "train").iterdir()
    }


def test_phantoms_are_overwritten_only_when_asked(tmp_path):
    write_phantoms(tmp_path / "p", num_train=2, num_test=1, size_px=64)
    with pytest.raises(DatasetError, match=r"overwrite=True \(--overwrite\)"):
        write_phantoms(tmp_path / "p", num_train=1, num_test=1, size_px=64)
    write_phantoms(tmp_path / "p", num_train=1, num_test=1, size_px=64, seed=1, overwrite=True)
    assert len(list((tmp_path / "p" / "train").iterdir())) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a file system that nobody can write to")
@pytest.mark.parametrize("where", ["/proc/phantoms", "/dev/null/phantoms"])
def test_a_folder_that_cannot_be_created_is_a_clear_error(where):
    with pytest.raises(DatasetError, match=f"Cannot write phantoms to {where}: .*Name a folder"):
        write_phantoms(where, num_train=1, num_test=1, size_px=64)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("full", ["train/image", "annotations/annotations_test.csv", "groups.csv"])
def test_a_full_disk_is_a_clear_error_and_a_partial_folder_can_be_replaced(tmp_path, full):
    root = tmp_path / "p"
    report = write_phantoms(root, num_train=2, num_test=1, size_px=64)
    name = next((root / "train").iterdir()).relative_to(root) if full == "train/image" else Path(full)
    (root / name).unlink()
    (root / name).symlink_to("/dev/full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlcak_hf.phantoms.writer.shutil.rmtree", lambda *arguments, **options: None)
        with pytest.raises(DatasetError, match=r"Cannot write phantoms to .*: No space left on device\. .*--overwrite"):
            write_phantoms(root, num_train=2, num_test=1, size_px=64, overwrite=True)
    (root / name).unlink()
    assert write_phantoms(root, num_train=2, num_test=1, size_px=64, overwrite=True) == report


def test_a_folder_with_other_files_is_never_cleared(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious.dicom").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"phantom\.json is missing"):
        write_phantoms(tmp_path, num_train=1, num_test=1, size_px=64, overwrite=True)
    assert (tmp_path / "train" / "precious.dicom").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0, "num_test": 0}, "not both 0; got 0 and 0"),
        ({"num_train": -1}, "got -1 and 300"),
        ({"size_px": 20}, "at least 64"),
        ({"num_proc": 0}, "num_proc"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        write_phantoms(tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_the_card_of_a_prepared_dataset_has_no_licence_of_vindr_cxr(phantoms, tmp_path):
    prepare_vindr_cxr(phantoms.output_dir, tmp_path / "dataset", size_px=32)
    card = DatasetCard.load(tmp_path / "dataset" / "README.md")
    assert card.data.license is None
    assert "show no patient" in card.content
    assert "PhysioNet" not in card.content
    assert "physionet" not in card.content
