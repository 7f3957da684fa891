"""Tables as people have them: byte-order marks, delimiters, spellings of ids, repeated rows; nothing is guessed."""

from __future__ import annotations

import csv

import pytest

from mlcak_hf.errors import DatasetError, LabelError
from mlcak_hf.preparation.tables import Table, bare_id, id_key, parse_number, read_groups
from mlcak_hf.vindr_cxr.layout import read_layout
from mlcak_hf.vindr_cxr.options import VinDrOptions
from mlcak_hf.vindr_cxr.vindr_folder import VinDrFolder

LABELS, BOXES = "annotations/image_labels_train.csv", "annotations/annotations_train.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_every_way_to_write_the_same_tables(small_vindr, delimiter, encoding, quoting) -> None:
    before = read_layout(small_vindr)
    for path in (small_vindr / "annotations").iterdir():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        with path.open("w", newline="", encoding=encoding) as stream:
            csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows([*rows, []])
    assert read_layout(small_vindr) == before


def test_a_delimiter_inside_a_name_does_not_count(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('image_id;"a, b";c\nx;1;2\n')
    table = Table(path)
    assert table.header == ["image_id", "a, b", "c"]
    assert list(table.named_rows(["c"])) == [(2, {"image_id": "x", "a, b": "1", "c": "2"})]


def test_named_rows_take_every_spelling_of_nothing_as_empty(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image_id,a\n x , NaN\ny,\n\nz\nw,0\nv,None,,\n")
    assert list(Table(path).named_rows(["image_id"])) == [
        (2, {"image_id": "x", "a": ""}), (3, {"image_id": "y", "a": ""}), (5, {"image_id": "z", "a": ""}),
        (6, {"image_id": "w", "a": "0"}), (7, {"image_id": "v", "a": ""}),
    ]  # fmt: skip


def test_a_row_with_more_values_than_columns_is_refused(small_vindr) -> None:
    """Otherwise every value after the additional one would count for another column."""
    for table, change in ((LABELS, ",0"), (BOXES, ",7")):
        path = small_vindr / table
        whole = path.read_text()
        first, second, *rest = whole.splitlines()
        path.write_text("\n".join([first, second + change, *rest]))
        with pytest.raises(DatasetError, match=r"line 2 must have \d+ cells, one per column; got \d+"):
            read_layout(small_vindr)
        path.write_text(whole)


def test_files_that_are_not_tables(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("image_id,a\nx,1\n".encode("utf-16"))
    with pytest.raises(DatasetError, match=r"t\.csv is not a CSV file in UTF-8 .*\. Save it as UTF-8"):
        list(Table(path).named_rows(["image_id"]))
    path.write_text("image_id,a\n" + "x" * 200_000)
    with pytest.raises(DatasetError, match=r"t\.csv is not a CSV file: .* after line 1"):
        list(Table(path).named_rows(["image_id"]))
    path.write_text("")
    with pytest.raises(DatasetError, match=r"must be a table with a header; got an empty file\. Download"):
        list(Table(path).named_rows(["image_id"]))
    with pytest.raises(DatasetError, match=r"cannot be read \(Is a directory\)"):
        Table(tmp_path)


def test_any_of_four_delimiters_is_read(small_vindr) -> None:
    before = read_layout(small_vindr)
    for delimiter in ";\t|":
        for name in (LABELS, BOXES):
            path = small_vindr / name
            text = path.read_text()
            path.write_text(text.replace(",", delimiter))
            assert read_layout(small_vindr) == before
            path.write_text(text)


def test_a_missing_column_of_boxes_says_what_to_do(small_vindr) -> None:
    edit(small_vindr / BOXES, "y_max", "bottom")
    with pytest.raises(
        DatasetError, match=r"must have the column 'y_max'; got .*bottom\. Rename the column, or download"
    ):
        read_layout(small_vindr)


def test_an_empty_table_of_labels(small_vindr) -> None:
    (small_vindr / LABELS).write_text("")
    with pytest.raises(
        DatasetError,
        match=r"train\.csv must be a table with a header; got an empty file",
    ):
        read_layout(small_vindr)


def test_a_box_of_a_reader_who_did_not_read_the_image(small_vindr) -> None:
    edit(small_vindr / BOXES, "a2,R2,Cardiomegaly", "a2,R99,Cardiomegaly")
    with pytest.raises(LabelError, match=r"a2 \(line \d+: image_labels_train\.csv has no reading of this image by R99"):
        read_layout(small_vindr)
    assert [record.image_id for record in read_layout(small_vindr, VinDrOptions(on_error="skip")).skipped] == ["a2"]


def test_a_box_without_its_reader(small_vindr) -> None:
    edit(small_vindr / BOXES, "a2,R2,Cardiomegaly", "a2,,Cardiomegaly")
    with pytest.raises(LabelError, match=r"a2 \(line \d+: column 'rad_id' is empty"):
        read_layout(small_vindr)


def test_disagreements_between_the_tables_are_counted(small_vindr) -> None:
    edit(small_vindr / BOXES, "a2,R2,Edema", "a2,R2,ILD")
    path = small_vindr / LABELS
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("a1,R3")))
    assert sorted(read_layout(small_vindr).table_notes) == [
        "1 box(es) of annotations_train.csv frame a finding that their reader did not mark in image_labels_train.csv",
        "1 finding(s) marked in image_labels_train.csv have no box in annotations_train.csv",
        "1 image(s) of train/ were not read by 3 reader(s), as most were",
    ]


def test_a_table_of_boxes_with_only_a_header_is_reported(small_vindr) -> None:
    path = small_vindr / BOXES
    path.write_text(path.read_text().splitlines()[0])
    assert read_layout(small_vindr).table_notes == [
        "7 finding(s) marked in image_labels_train.csv have no box in annotations_train.csv"
    ]


def test_a_folder_in_place_of_an_image_is_refused(small_vindr) -> None:
    (small_vindr / "train" / "a1.dicom").unlink()
    (small_vindr / "train" / "a1.dicom").mkdir()
    with pytest.raises(
        DatasetError, match=r"of train/ with a folder in place of the file: a1\. Put the file there, or leave them out"
    ):
        read_layout(small_vindr)


def test_an_image_id_may_be_spelled_in_several_ways() -> None:
    assert {id_key(i) for i in ("Ab1", "ab1.dicom", " AB1.PNG", "ab1.dcm ")} == {"ab1"}
    assert bare_id("Ab1.DICOM") == "Ab1"
    assert bare_id("ab.1") == "ab.1"
    assert bare_id(".png") == ".png"


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_ids_with_other_case_or_a_suffix_mean_the_same_image(small_vindr, tmp_path) -> None:
    before = read_layout(small_vindr)
    edit(small_vindr / LABELS, "a2,R2", "A2.dicom,R2")
    edit(small_vindr / BOXES, "a2,R1", "a2.PNG,R1")
    (small_vindr / "train" / "a4.dicom").rename(small_vindr / "train" / "A4.DCM")
    groups = tmp_path / "g.csv"
    groups.write_text("image_id,group_id\n" + "".join(f"A{n}.dicom,PA{n}\nT{n},P\n" for n in range(1, 7)))
    after = read_layout(small_vindr, VinDrOptions(groups=groups))
    assert [r.image_id for r in after.splits["train"]] == [
        "a1",
        "a2",
        "a3",
        "A4",
        "a5",
        "a6",
    ]  # as the files spell them
    assert [(r.readings, r.boxes) for r in after.splits["train"]] == [
        (r.readings, r.boxes) for r in before.splits["train"]
    ]
    assert [r.group for r in after.splits["train"]] == [f"PA{n}" for n in range(1, 7)]


def test_two_files_that_differ_in_case_alone_are_ambiguous(small_vindr) -> None:
    (small_vindr / "train" / "A1.dicom").write_bytes((small_vindr / "train" / "a1.dicom").read_bytes())
    with pytest.raises(DatasetError, match=r"more than one file in train/: A1 \(A1\.dicom, a1\.dicom\)"):
        read_layout(small_vindr)


def test_an_image_in_train_and_test_in_another_letter_case_is_refused(small_vindr) -> None:
    edit(small_vindr / "annotations/image_labels_test.csv", "t1", "A1")
    edit(small_vindr / "annotations/annotations_test.csv", "t1", "A1")
    (small_vindr / "test" / "t1.dicom").rename(small_vindr / "test" / "A1.dicom")
    with pytest.raises(DatasetError, match="of train/ that are also in test/: a1"):
        read_layout(small_vindr)


def test_repeated_rows_are_used_once_and_counted(small_vindr, caplog) -> None:
    before = read_layout(small_vindr)
    for name in (LABELS, BOXES):
        lines = (small_vindr / name).read_text().splitlines()
        (small_vindr / name).write_text("\n".join([*lines, lines[2], lines[3], lines[3]]))
    after = read_layout(small_vindr)
    assert after.splits["train"] == before.splits["train"]
    assert sorted(after.table_notes) == [
        "3 row(s) of annotations_train.csv repeat another row and were used once",
        "3 row(s) of image_labels_train.csv repeat another row and were used once",
    ]


def test_swapped_corners_are_corrected_and_counted(small_vindr) -> None:
    before = read_layout(small_vindr)
    edit(small_vindr / BOXES, "5,20,25.5,35", "25.5,20,5,35")
    edit(small_vindr / BOXES, "6,21,26,36", "26,36,6,21")
    after = read_layout(small_vindr)
    assert after.splits["train"] == before.splits["train"]
    assert after.table_notes == ["2 box(es) of annotations_train.csv had swapped corners, which were corrected"]


@pytest.mark.parametrize("nan", ["NaN", "nan", "", "N/A"])
def test_labels_that_are_not_a_number_name_line_and_column(small_vindr, nan) -> None:
    lines = (small_vindr / LABELS).read_text().splitlines()
    cells = lines[4].split(",")
    cells[lines[0].split(",").index("Edema")] = nan
    lines[4] = ",".join(cells)
    (small_vindr / LABELS).write_text("\n".join(lines))
    with pytest.raises(LabelError, match=r"a2 \(line 5: column 'Edema' must hold 0 or 1; got ''\)"):
        read_layout(small_vindr)
    assert [r.image_id for r in read_layout(small_vindr, VinDrOptions(on_error="skip")).skipped] == ["a2"]


def test_a_cell_must_hold_a_finite_number() -> None:
    assert parse_number("1.5e1", "x") == 15
    for text in ("", "inf", "nan", "-Infinity"):
        with pytest.raises(LabelError, match="column 'x' must hold a number"):
            parse_number(text, "x")
    with pytest.raises(LabelError, match=r"got '1,5' \(write decimals with a point\)"):
        parse_number("1,5", "x")


def test_an_image_in_two_groups_under_two_spellings_is_refused(tmp_path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("image_id;group_id\na1;P1\nA1.png;P2\n")
    with pytest.raises(
        DatasetError, match=r"g\.csv: line 3 puts image A1\.png into a second group\. Remove one of the rows"
    ):
        read_groups(path)


def test_a_box_of_a_global_label_is_not_used_and_counted(small_vindr) -> None:
    before = read_layout(small_vindr).splits["train"]
    path = small_vindr / BOXES
    path.write_text(path.read_text() + "a6,R1,Other disease,1,2,3,4\n")
    found = read_layout(small_vindr)
    assert found.splits["train"] == before
    assert found.table_notes == ["1 box(es) of annotations_train.csv belong to a global label and were not used"]


def test_the_usual_number_of_readers_does_not_depend_on_the_order_of_the_images() -> None:
    """Notes are part of a prepared dataset; sets of names have another order in every process."""
    one, two = dict.fromkeys(["R1"]), dict.fromkeys(["R1", "R2"])
    for n in range(20):
        folder = VinDrFolder("train", readings={f"a{n}": one, f"b{n}": two, f"c{n}": one, f"d{n}": two})
        folder.note_reader_counts()
        assert folder.table_notes == {"image(s) of train/ were not read by 2 reader(s), as most were": 2}
