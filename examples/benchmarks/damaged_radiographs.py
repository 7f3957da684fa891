"""Whole radiographs in every transfer syntax, and ten ways of damaging them: what `fuzz_radiographs.py` reads."""

import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from mlcak_hf.radiographs.dicom.pixels import READABLE_SYNTAXES

NAME = b"SECRET^Jane"
"""The patient's name in every synthetic file; no message may hold it."""

PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
         uid.DeflatedExplicitVRLittleEndian)  # fmt: skip
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 32, 48, 255, 256, 1000, 9000, 30000, 32768, 65535]
TAGS = {  # of numbers with 16 bits
    "Rows": 0x0010, "Columns": 0x0011, "SamplesPerPixel": 0x0002, "BitsAllocated": 0x0100, "BitsStored": 0x0101,
    "HighBit": 0x0102, "PixelRepresentation": 0x0103, "PlanarConfiguration": 0x0006, "PixelPaddingValue": 0x0120,
}  # fmt: skip


def chest(height: int, width: int, bits: int, dtype: type, seed: int) -> np.ndarray:
    """A smooth picture with noise over the range of `bits`."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    noise = np.random.default_rng(seed).standard_normal((height, width))
    values = np.clip(0.5 + 0.4 * np.sin(6 * x) * np.cos(5 * y) + 0.02 * noise, 0, 1) * (2**bits - 1)
    return (np.rint(values) - (2 ** (bits - 1) if np.dtype(dtype).kind == "i" else 0)).astype(dtype)


def compress(pixels: np.ndarray, bits: int, syntax: str) -> bytes:
    """One compressed frame."""
    whole = pixels.view(f"u{pixels.itemsize}")
    codes = whole & whole.dtype.type((1 << bits) - 1)
    if syntax == uid.RLELossless:
        return bytes(pydicom.pixels.encoders.RLELosslessEncoder.encode(
            pixels, rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=1, number_of_frames=1,
            bits_allocated=8 * pixels.itemsize, bits_stored=bits, pixel_representation=int(pixels.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2", encoding_plugin="pydicom"))  # fmt: skip
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(codes, level=95, bitspersample=8 if bits == 8 else 12))
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
        return bytes(imagecodecs.jpeg8_encode(codes, lossless=True, predictor=predictor, bitspersample=bits))
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(whole, level=2 if syntax == uid.JPEGLSNearLossless else 0))
    if syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        ratios = [10] if syntax == uid.JPEG2000 else None
        return bytes(openjpeg.encode(pixels, bits_stored=bits, compression_ratios=ratios))
    lossy = {"level": 0.0005, "reversible": False} if syntax == uid.HTJ2K else {"reversible": True}
    return bytes(imagecodecs.htj2k_encode(pixels, **lossy))


def write_dicom(path: Path, pixels: np.ndarray, bits: int, syntax: str, photometric: str, extra: dict) -> None:
    """Write a radiograph with a patient's name in it."""
    dataset = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = NAME.decode()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in extra.items():
        setattr(dataset, keyword, value)
    if syntax in PLAIN:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        dataset.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    else:
        dataset.add_new("PixelData", "OB", pydicom.encaps.encapsulate([compress(pixels, bits, syntax)]))
        dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset, enforce_file_format=False)


def look_up_table() -> Dataset:
    """A VOI LUT for 12 bits."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 10])
    item.add_new("LUTData", "US", [i // 4 for i in range(4096)])
    return item


def make_whole_files(data: Path | None) -> list[tuple[str, bytes]]:
    """Synthetic files over all syntaxes, depths and signs, a few large ones, and every eighth real one."""
    window = {"WindowCenter": 1500, "WindowWidth": 900, "RescaleSlope": 1, "RescaleIntercept": -7}
    kinds: list[tuple[type, int, dict]] = [
        (np.uint8, 8, {}),
        (np.uint16, 12, window),
        (np.int16, 12, {"PixelPaddingValue": -2048}),
        (np.uint16, 16, {"WindowCenter": 30000, "WindowWidth": 20000, "VOILUTFunction": "SIGMOID"}),
    ]
    files: list[tuple[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"

        def add(name: str, *arguments) -> None:
            write_dicom(path, *arguments)
            files.append((name, path.read_bytes()))

        for syntax in READABLE_SYNTAXES:
            for number, (dtype, bits, extra) in enumerate(kinds):
                lossy = syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
                if (syntax == uid.JPEGBaseline8Bit and bits > 8) or (lossy and (bits > 12 or dtype is np.int16)):
                    continue
                pixels = chest(48, 40, bits, dtype, number)
                add(uid.UID(syntax).keyword, pixels, bits, syntax, f"MONOCHROME{1 + number % 2}", extra)
        for syntax in (uid.JPEG2000Lossless, uid.JPEG2000, uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1):
            add(f"{uid.UID(syntax).keyword}, large", chest(1000, 920, 12, np.uint16, 9), 12, syntax, "MONOCHROME2", {})
        lut = {"VOILUTSequence": [look_up_table()]}
        add("with a VOI LUT", chest(48, 40, 12, np.uint16, 5), 12, uid.ExplicitVRLittleEndian, "MONOCHROME2", lut)
    real = sorted(data.rglob("*.dicom"))[::8] if data else []
    return files + [("real", p.read_bytes()) for p in real]


def damage(rng: np.random.Generator, files: list[tuple[str, bytes]]) -> tuple[str, str, bytes]:
    """Damage one file; returns what it was, how it was damaged, and the damaged bytes."""
    kinds = sorted({name for name, _ in files})
    kind = kinds[rng.integers(len(kinds))]
    of_kind = [content for name, content in files if name == kind]
    data = bytearray(of_kind[rng.integers(len(of_kind))])
    names = [str(how) for how in rng.choice(list(DAMAGES), size=rng.choice([1, 1, 1, 2, 3]))]
    for how in names:
        DAMAGES[how](rng, data, files)
    return kind, names[0] if len(names) == 1 else "several", bytes(data)


def flip_bits(rng, data, files) -> None:
    """Flip up to eight bits anywhere after the preamble, half of them near the start of the header or the pixels."""
    for _ in range(rng.integers(1, 9)):
        at = _anywhere(rng, data)
        data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))])


def overwrite_run(rng, data, files) -> None:
    """Overwrite a run of bytes with one value, or with noise."""
    at, length = _anywhere(rng, data), int(rng.integers(1, 40))
    value = int(rng.integers(256))
    data[at : at + length] = bytes([value]) * length if rng.random() < 0.5 else rng.bytes(length)


def insert_or_delete(rng, data, files) -> None:
    """Insert or remove some bytes."""
    at, length = _anywhere(rng, data), int(rng.integers(1, 20))
    if rng.random() < 0.5:
        data[at:at] = rng.bytes(length)
    else:
        del data[at : at + length]


def cut_off(rng, data, files) -> None:
    """Remove the end."""
    del data[int(rng.integers(1, max(2, len(data)))) :]


def change_length(rng, data, files) -> None:
    """Change the length of Pixel Data, an item or a sequence."""
    markers = (b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0", b"\x28\x00\x10\x30", b"\x02\x00\x00\x00")
    at = data.find(markers[rng.integers(len(markers))])
    if at >= 0:
        value = int(rng.choice([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, rng.integers(2**32), rng.integers(5000)]))
        at += int(rng.choice([4, 8]))
        data[at : at + 4] = value.to_bytes(4, "little")


def change_tag(rng, data, files) -> None:
    """Change a number in the header."""
    _set_tag(data, list(TAGS.values())[rng.integers(len(TAGS))], int(rng.choice(NUMBERS)))


def change_size(rng, data, files) -> None:
    """Make header and codestream declare the same wrong size."""
    rows, columns = (int(rng.choice([*NUMBERS, rng.integers(1, 12000)])) for _ in range(2))
    _set_tag(data, TAGS["Rows"], rows)
    _set_tag(data, TAGS["Columns"], columns)
    at = data.find(b"\xff\x4f\xff\x51")
    if at >= 0:
        data[at + 8 : at + 16] = columns.to_bytes(4, "big") + rows.to_bytes(4, "big")
        if rng.random() < 0.5:
            data[at + 24 : at + 32] = columns.to_bytes(4, "big") + rows.to_bytes(4, "big")
    for marker in (b"\xff\xc0\x00", b"\xff\xc1\x00", b"\xff\xc3\x00", b"\xff\xf7\x00"):
        at = data.find(marker)
        if at >= 0:
            data[at + 5 : at + 9] = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")


def change_codestream(rng, data, files) -> None:
    """Change bytes in the first 200 of a codestream, where its parameters are."""
    starts = [at for at in (data.find(b"\xff\x4f\xff\x51"), data.find(b"\xff\xd8\xff")) if at >= 0]
    for _ in range(rng.integers(1, 5)) if starts else ():
        at = starts[0] + int(rng.integers(2, 200))
        if at < len(data):
            data[at] = int(rng.choice([0, 1, 127, 128, 254, 255, rng.integers(256)]))


def change_syntax(rng, data, files) -> None:
    """Declare a wrong transfer syntax."""
    names = [u for u in uid.AllTransferSyntaxes if len(u) <= 24]
    at = data.find(b"\x02\x00\x10\x00UI")
    if at >= 0:
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        name = names[rng.integers(len(names))].encode()
        data[at + 8 : at + 8 + length] = name[:length].ljust(length, b"\0")


def splice(rng, data, files) -> None:
    """Replace the end by that of another file, from any place or from the start of the pixels."""
    other = files[rng.integers(len(files))][1]
    pixels = b"\xe0\x7f\x10\x00"
    here, there = data.find(pixels), other.find(pixels)
    if rng.random() < 0.5 or min(here, there) < 0:
        here, there = int(rng.integers(len(data) + 1)), int(rng.integers(len(other)))
    data[here:] = other[there:]


DAMAGES = {
    function.__doc__.rstrip(".").split(",")[0].lower(): function
    for function in (flip_bits, overwrite_run, insert_or_delete, cut_off, change_length, change_tag, change_size,
                     change_codestream, change_syntax, splice)
}  # fmt: skip


def _anywhere(rng: np.random.Generator, data: bytearray) -> int:
    """A place after the preamble; every other time near the start of the header or the pixels."""
    if len(data) < 140:
        return int(rng.integers(max(1, len(data)))) if data else 0
    start = (132, max(132, data.find(b"\xe0\x7f\x10\x00")))[rng.integers(2)]
    end = min(len(data), start + 700) if rng.random() < 0.5 else len(data)
    return int(rng.integers(start, max(start + 1, end))) if start < len(data) else len(data) - 1


def _set_tag(data: bytearray, element: int, value: int) -> None:
    for order in ("little", "big"):
        tag = (0x28).to_bytes(2, order) + element.to_bytes(2, order)
        at = data.find(tag, 132)
        if at >= 0:
            data[at + 8 : at + 10] = value.to_bytes(2, order)
