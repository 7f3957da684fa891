"""Files full of names, dates and numbers go in: not one of them may come out, in whatever spelling."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from vindr_factories import chest, look_up_table, make_dicom, make_vindr, write_table

from mlcak_hf.cli.main import main
from mlcak_hf.preparation.shards import plan, shard_files

# One for each way of writing text in a DICOM file; long enough to occur nowhere by chance.
SECRETS = {
    "PN": "Doe^Jane^Secret",
    "LO": "Secret Ward 7",
    "SH": "SecretShort",
    "LT": "Mrs Doe-Secret came in at night",
    "ST": "Secret remark on a gown",
    "UT": "Secret report about a daughter",
    "UC": "Secret unlimited words",
    "UR": "https://secret-hospital.example/doe",
    "CS": "SECRETCODE",
    "AE": "SECRETSTATION",
    "DA": "19530217",
    "TM": "113059.127",
    "DT": "19530217113059.127",
    "UI": "1.2.826.0.1.3680043.8.498.777777777.4711",
    "DS": "71.235711",
    "IS": "471147117",
    "AS": "071Y",
    "OB": "Secret bytes in a private tag!",
}
GROUP = "patient-secret-4711"

# Elements that the image is read from, and keywords that are not elements of a data set.
_NEEDED = {
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("SpecificCharacterSet", "LengthToEnd", "TimezoneOffsetFromUTC"),
}


def fill(dataset: Dataset) -> Dataset:
    """Write the secrets into every text element of DICOM's dictionary."""
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in SECRETS and vr != "OB" and tag >> 16 >= 8 and keyword and keyword not in _NEEDED and not retired:
            dataset.add_new(tag, vr, SECRETS[vr])
    return dataset


def make_secretive(path: Path, seed: int) -> None:
    """A radiograph with secrets in all text, in sequences, private tags, file meta, preamble and codestream."""
    inner = fill(Dataset())
    inner.add_new(0x00081140, "SQ", Sequence([fill(Dataset())]))
    table = look_up_table(list(range(4096)), 0, 12)
    table.LUTExplanation = SECRETS["LO"]
    syntax = JPEG2000Lossless if seed % 2 else ExplicitVRLittleEndian
    make_dicom(path, chest(seed=seed), bits=12, syntax=syntax, VOILUTSequence=Sequence([table]))
    dataset = pydicom.dcmread(path)
    if seed % 2:
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        after_size = 4 + int.from_bytes(stream[4:6], "big")
        words = SECRETS["LT"].encode()
        comment = b"\xff\x64" + (len(words) + 4).to_bytes(2, "big") + b"\x00\x01" + words
        dataset.PixelData = encapsulate([stream[:after_size] + comment + stream[after_size:]])
    fill(dataset)
    dataset.WindowCenterWidthExplanation = SECRETS["LO"]
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, SECRETS["LO"]
    dataset.add_new(0x00321064, "SQ", Sequence([inner]))
    private = dataset.private_block(0x0099, "SECRETCREATOR", create=True)
    for offset, vr in enumerate(SECRETS):
        private.add_new(offset, vr, SECRETS[vr].encode() if vr == "OB" else SECRETS[vr])
    private.add_new(0xF0, "SQ", Sequence([inner]))
    meta = dataset.file_meta
    meta.MediaStorageSOPInstanceUID = SECRETS["UI"]
    meta.ImplementationVersionName, meta.SourceApplicationEntityTitle = SECRETS["SH"], SECRETS["AE"]
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = SECRETS["UI"], SECRETS["OB"].encode()
    dataset.preamble = SECRETS["LT"].encode().ljust(128, b"\0")
    dataset.add_new(0xFFFCFFFC, "OB", SECRETS["OB"].encode())
    with pydicom.config.disable_value_validation():
        dataset.save_as(path)


def spellings(secret: str) -> Iterator[bytes]:
    """A secret as it may be hidden in bytes."""
    for plain in (secret.encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be"), secret.upper().encode()):
        yield plain
        for shift in range(3):
            # Base64 of the secret inside of other bytes: the characters that do not depend on its neighbours.
            coded = base64.b64encode(b"\0" * shift + plain)[-(-8 * shift // 6) : 8 * (shift + len(plain)) // 6]
            if len(coded) >= 6:
                yield coded


def all_bytes(path: Path) -> Iterator[bytes]:
    """A file's bytes, and whatever is packed in them."""
    raw = path.read_bytes()
    yield raw
    try:
        table, metadata = pq.read_table(io.BytesIO(raw)), pq.read_metadata(io.BytesIO(raw)).metadata
    except (pa.ArrowException, OSError):
        return
    for key, value in (metadata or {}).items():
        yield key + value
        if key == b"ARROW:schema":
            yield base64.b64decode(value)
    for row in table.to_pylist():
        yield repr(row).encode()
        yield from png_bytes(row["image"]["bytes"])


def png_bytes(png: bytes) -> Iterator[bytes]:
    """A PNG's bytes, its text, and its pixels."""
    yield png
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        yield repr(image.info).encode()
        yield image.tobytes()
    place, packed = 8, b""
    while place < len(png):
        length, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        packed += png[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += 12 + length
    yield zlib.decompress(packed)


def found_in(*texts: bytes) -> set[str]:
    """The secrets that occur."""
    secrets = {*SECRETS.values(), GROUP, "SECRETCREATOR"}
    return {secret for secret in secrets for text in texts for spelt in spellings(secret) if spelt in text}


def leaks(folder: Path) -> dict[str, set[str]]:
    """Files of a folder with a secret in them, or in their names."""
    found = {}
    for path in folder.rglob("*"):
        secrets = found_in(str(path.relative_to(folder)).encode(), *(all_bytes(path) if path.is_file() else ()))
        if secrets:
            found[str(path.relative_to(folder))] = secrets
    return found


@pytest.fixture
def secretive(tmp_path: Path) -> Path:
    """A folder with secrets in every file, some of them damaged, and patients' numbers in the groups file."""
    names = [f"a{i}" for i in range(8)]
    root = make_vindr(tmp_path / "vindr", {i: {"R1": [], "R2": ["Edema"], "R3": []} for i in names}, {"t1": []})
    for number, path in enumerate(sorted(root.rglob("*.dicom"))):
        make_secretive(path, number)
    cut_off = root / "train" / "a6.dicom"
    cut_off.write_bytes(cut_off.read_bytes()[:5000])
    for image_id, keyword in (("a5", "VOILUTFunction"), ("a7", "PhotometricInterpretation")):
        misplaced = pydicom.dcmread(root / "train" / f"{image_id}.dicom")
        with pydicom.config.disable_value_validation():
            setattr(misplaced, keyword, SECRETS["PN"])
            misplaced.WindowCenter, misplaced.WindowWidth = 100, 50
            del misplaced.VOILUTSequence
            misplaced.save_as(root / "train" / f"{image_id}.dicom")
    unknown = pydicom.dcmread(root / "train" / "a4.dicom")
    unknown.file_meta.TransferSyntaxUID = SECRETS["UI"]
    options = {"implicit_vr": False, "little_endian": True, "enforce_file_format": False}
    pydicom.dcmwrite(root / "train" / "a4.dicom", unknown, **options)
    write_table(root / "groups.csv", ["image_id", "group_id"], [[i, f"{GROUP}-{i}"] for i in [*names, "t1"]])
    return root


def test_the_search_finds_what_is_hidden(tmp_path) -> None:
    secret = SECRETS["PN"]
    coded = [base64.b64encode(b"a" * shift + secret.encode()).decode() for shift in range(3)]
    for hidden in (secret, *coded):
        stream, text = io.BytesIO(), PngImagePlugin.PngInfo()
        Image.new("L", (4, 4)).save(stream, format="PNG")
        clean = stream.getvalue()
        text.add_text("Comment", hidden, zip=True)
        stream = io.BytesIO()
        Image.new("L", (4, 4)).save(stream, format="PNG", pnginfo=text)
        for cell, png in ((hidden, clean), ("", stream.getvalue())):
            table = pa.table({"name": [cell], "image": [{"bytes": png}]})
            pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
            assert leaks(tmp_path) == {"x.parquet": {secret}}
    pq.write_table(table.replace_schema_metadata({"note": secret}), tmp_path / "x.parquet")
    assert leaks(tmp_path)
    pq.write_table(pa.table({"name": [""], "image": [{"bytes": clean}]}), tmp_path / "x.parquet")
    assert not leaks(tmp_path)
    (tmp_path / "wide.txt").write_bytes(secret.encode("utf-16"))
    assert leaks(tmp_path) == {"wide.txt": {secret}}


@pytest.mark.slow
def test_the_source_is_full_of_patient_data(secretive) -> None:
    for path in secretive.rglob("a[0-3].dicom"):
        dataset = pydicom.dcmread(path)
        assert len(dataset) > 1000
        assert found_in(path.read_bytes()) >= set(SECRETS.values())


@pytest.mark.slow
def test_no_patient_data_reaches_the_output(secretive, tmp_path, monkeypatch, capsys, caplog) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 2)
    caplog.set_level(logging.DEBUG)
    command = [
        "mlcak",
        "prepare",
        str(secretive),
        str(tmp_path / "out"),
        "--size",
        "32",
        "--on-error",
        "skip",
        "--validation-fraction",
        "0.3",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--groups", str(secretive / "groups.csv")])
    monkeypatch.setenv("COLUMNS", "300")

    def run() -> str:
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        captured = capsys.readouterr()
        return captured.out + captured.err + caplog.text

    # Stopped half-way: the work folder must hold no secret either.
    with monkeypatch.context() as stopping:
        put = shard_files.put

        def stop(unfinished: Path, path: Path) -> None:
            if path.name.startswith("test"):
                assert list((tmp_path / "out.partial" / "unfinished").iterdir())
                assert not leaks(tmp_path / "out.partial")
                raise KeyboardInterrupt
            put(unfinished, path)

        stopping.setattr(shard_files, "put", stop)
        with pytest.raises(SystemExit):
            main()
        assert len(list((tmp_path / "out.partial").rglob("*.parquet"))) == 4
    said = run()
    assert "Skipped: 4 image(s)" in said
    assert not found_in(said.encode())
    record = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert [entry["image_id"] for entry in record["skipped"]] == ["a4", "a5", "a6", "a7"]
    assert record["splits"]["train"]["images"] + record["splits"]["validation"]["images"] == 4
    assert not leaks(tmp_path / "out")
    # Nor where the data lay on this machine.
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and str(tmp_path).encode() in p.read_bytes()]
