"""A folder of radiographs and a CSV file of labels becomes a dataset; nothing is left out silently."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from vindr_factories import chest, make_dicom

from mlcak_hf.cli.main import main
from mlcak_hf.errors import DatasetError, LabelError
from mlcak_hf.labels_csv.labels_source import LabelsOptions, LabelsSource
from mlcak_hf.preparation.prepare import prepare_dataset
from mlcak_hf.preparation.shards import plan

CHOICES = {"size_px": 32, "patient_column": "patient", "findings": ["Edema"]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of each of ten patients: DICOM, PNG and JPEG, some in a sub-folder."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for number in range(20):
        path = folder / ("more" if number % 5 == 0 else "") / f"i{number:02d}"
        if number % 3 == 0:
            make_dicom(path.with_suffix(".dcm"), chest(seed=number), bits=12)
        else:
            grey = np.rint(255 * np.linspace(0, 1, 48)[:, None] * np.ones((1, 40))).astype(np.uint8)
            Image.fromarray(grey).save(path.with_suffix((".png", ".jpg")[number % 3 - 1]))
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    label = ["pneumonia", "Normal", "", "normal"]
    rows = [f"i{n:02d},{label[n % 4]},{(1, 0, '')[n % 3]},SECRET-{n // 2},7{n}" for n in range(20)]
    path = tmp_path / "labels.csv"
    path.write_text("image_id,label,Edema,patient,age\n" + "\n".join(rows) + "\n")
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def source(images: Path, table: Path, **choices) -> LabelsSource:
    return LabelsSource(images, LabelsOptions(labels=table, **CHOICES | choices))


def test_text_labels_findings_and_patients_become_a_dataset(images, table, tmp_path) -> None:
    report = prepare_dataset(source(images, table), tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = {row["image_id"]: row for split in dataset.values() for row in split.remove_columns("image")}
    assert set(dataset) == {"train", "validation", "test"}
    assert len(rows) == 20
    assert dataset["train"].features["label"].names == ["Normal", "pneumonia"]  # normal is 0
    assert [rows[f"i{n:02d}"]["label"] for n in range(4)] == [1, 0, -1, 0]
    assert [rows[f"i{n:02d}"]["findings"]["Edema"] for n in range(3)] == [1, 0, -1]
    patients = [{row["group"] for row in split.remove_columns("image")} for split in dataset.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 10
    assert "5 image(s) have no label, which is stored as -1" in report.table_notes
    assert "1 column(s) of the CSV file were not used: age" in report.table_notes
    assert sum(split.normal + split.abnormal for split in report.splits.values()) == 15
    assert not any(b"SECRET" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("i03,normal", "i0,normal", DatasetError, r"1 image\(s\) named in the CSV file, but without a file in .*: i0"),
        ("i03,normal,1,SECRET-1,73\n", "", DatasetError, r"in images/, but not named in the CSV file: i03"),
        ("i03,normal", "i02,normal", DatasetError, r"with different rows in the CSV file: i02"),
        ("SECRET-1,73", ",73", DatasetError, r"without a patient in the CSV file: i03"),
        ("i03,normal,1", "i03,normal,maybe", LabelError, r"i03 \(line 5: column 'Edema' must hold 0, 1, or nothing"),
        ("i03,normal", ",normal,1,SECRET-1,7\ni03,normal", DatasetError, r"without a name in the CSV file: line 5"),
    ],
)
def test_what_does_not_fit_is_one_sentence_or_listed(images, table, old, new, error, message) -> None:
    edit(table, old, new)
    found = source(images, table, on_error="skip").read()
    used = sum(map(len, found.splits.values()))
    assert used + len({image.image_id for image in found.skipped if image.image_id.startswith("i")} - {"i0"}) == 20
    assert found.skipped
    with pytest.raises(error, match=message):
        source(images, table).read()


def test_dicom_files_without_a_suffix_are_found(images, table) -> None:
    for path in images.rglob("*.dcm"):
        path.rename(path.with_suffix(""))
    assert sum(map(len, source(images, table).read().splits.values())) == 20


def test_files_of_one_name_in_several_folders_are_refused_with_the_remedy(images, table) -> None:
    (images / "i00.dcm").write_bytes((images / "more" / "i00.dcm").read_bytes())
    with pytest.raises(
        DatasetError, match=r"with more than one file in images/: i00 \(i00\.dcm\)\. Keep one, or rename"
    ):
        source(images, table).read()


def test_a_column_that_occurs_twice_is_refused(images, table) -> None:
    edit(table, ",age", ",label")
    with pytest.raises(DatasetError, match=r"labels\.csv must have one column 'label'; got 2\. Rename"):
        source(images, table)


def test_unknown_columns_are_named(images, table) -> None:
    with pytest.raises(DatasetError, match=r"must have the column 'Cold'; got image_id, .*--findings"):
        source(images, table, findings=["Cold"])
    with pytest.raises(DatasetError, match=r"There must be a label column or findings"):
        source(images, table, label_column="none", findings=[])


def test_a_column_without_classes_is_refused(images, table) -> None:
    table.write_text("image_id,label\n" + "".join(f"i{n:02d},remark {n}\n" for n in range(60)))
    with pytest.raises(DatasetError, match=r"'label' must hold 2 to 50 different labels; got 60"):
        source(images, table, patient_column=None, findings=[])


def test_zeros_and_ones_are_normal_and_abnormal_and_rows_may_repeat(images, table) -> None:
    table.write_text("file;abnormal\n" + "".join(f"images/i{n:02d}.png;{n % 2}\n" for n in [*range(20), 3]))
    choices = {"image_column": "file", "label_column": "abnormal", "patient_column": None, "findings": []}
    labels = source(images, table, **choices)
    found = labels.read()
    assert labels.classes == ("Normal", "Abnormal")
    assert sum(map(len, found.splits.values())) == 20
    assert found.table_notes == ["1 row(s) of the CSV file repeat another row and were used once"]


def test_without_a_label_column_an_image_with_a_finding_is_abnormal(images, table) -> None:
    found = source(images, table, label_column="none").read()
    labels = {record.image_id: record.label for records in found.splits.values() for record in records}
    assert [labels[f"i{n:02d}"] for n in range(3)] == [1, 0, -1]


@pytest.mark.slow
def test_the_command_resumes_after_a_kill(images, table, tmp_path, monkeypatch) -> None:
    script = Path(__file__).parents[1] / "preparation" / "kills.py"
    command = [sys.executable, script, "prepare", images, tmp_path / "out", "--labels", table, "--size", "32"]
    data = tmp_path / "out.partial" / "dataset" / "data"
    with subprocess.Popen([*command, "--patient-column", "patient"]) as process:
        while len(list(data.glob("*.parquet"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    finished = {path.name: path.stat().st_ino for path in data.glob("*.parquet")}
    assert not (tmp_path / "out").exists()
    again = subprocess.run([*command, "--patient-column", "patient"], capture_output=True, text=True, check=True)
    assert f"{len(finished)} of 8 shards were finished before" in again.stderr
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)
    prepare_dataset(source(images, table, findings=[]), tmp_path / "undisturbed")
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("out", "undisturbed"))
    assert one == other
    for name, inode in finished.items():  # the very files, not written again
        assert (tmp_path / "out" / "data" / name).stat().st_ino == inode


@pytest.mark.slow
def test_the_command_prepares_a_csv_file_of_labels(images, table, tmp_path, monkeypatch, capsys) -> None:
    def mlcak(*arguments) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mlcak", "prepare", str(images), str(tmp_path / "out"), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), " ".join((said.out + said.err).split())

    code, said = mlcak("--labels", table, "--layout", "kaggle")
    assert (code, said) == (2, "error: --layout is not for --labels; leave it out.")
    code, said = mlcak("--labels", table, "--size", 32, "--findings", "Edema", "--workers", 2)
    assert code == 0
    assert "Splits are by image, as no patients were given" in said
    assert "not used: patient, age" in said
    choices = json.loads((tmp_path / "out" / "preparation.json").read_text())["choices"]
    assert choices["findings"] == ["Edema"]
