"""Which images a model was trained on: found again in another file, kept as salted hashes only, never uploaded."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from mlcak_hf.data.decoded_images import image_digest
from mlcak_hf.errors import DatasetError
from mlcak_hf.training.training_images import TRAINING_IMAGES_FILE, TrainingImages, training_hits

DIGESTS = [bytes([number] * 16) for number in range(6)]


def compressed(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_the_same_pixels_are_found_in_another_file_and_other_pixels_are_not():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    files = [compressed(image, format="PNG", compress_level=level) for level in (1, 9)] + [
        compressed(image, format="TIFF")
    ]
    assert len(set(files)) == 3
    digests = {image_digest(PIL.Image.open(io.BytesIO(file))) for file in files}
    assert digests == {image_digest(image)}
    changed = pixels.copy()
    changed[3, 4] ^= 1
    assert image_digest(changed) not in digests
    flat = np.zeros((4, 6), np.uint8)
    assert image_digest(flat) != image_digest(flat.T)


def test_sixteen_bits_are_the_same_however_a_library_decodes_them():
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    assert image_digest(pixels) == image_digest(pixels.astype(np.int32))
    assert image_digest(pixels) != image_digest((pixels >> 8).astype(np.uint8))


def test_a_saved_record_counts_the_images_that_were_trained_on(tmp_path):
    TrainingImages.of_run(DIGESTS[:4]).save(tmp_path)
    loaded = TrainingImages.load(tmp_path)
    assert loaded.count(DIGESTS) == 4
    assert loaded.count(DIGESTS[3:]) == 1
    assert loaded.count(DIGESTS[4:]) == 0
    assert TrainingImages.load(tmp_path / "nothing here") is None


def test_neither_the_digest_of_an_image_nor_anything_shared_by_two_models_is_in_the_file(tmp_path):
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        TrainingImages.of_run(DIGESTS).save(tmp_path / name)
        texts.append((tmp_path / name / TRAINING_IMAGES_FILE).read_text())
    ours, theirs = (set(json.loads(text)["sets"][0]["hashes"]) for text in texts)
    assert len(ours) == 6
    assert not ours & theirs
    assert not any(digest.hex() in text for digest in DIGESTS for text in texts)


def test_images_behind_the_initial_weights_count_too(tmp_path):
    TrainingImages.of_run(DIGESTS[:2]).save(tmp_path)
    later = TrainingImages.of_run(DIGESTS[2:4], TrainingImages.load(tmp_path))
    assert [later.count([digest]) for digest in DIGESTS] == [1, 1, 1, 1, 0, 0]


def test_nothing_is_claimed_about_images_that_unrecorded_initial_weights_may_have_seen(tmp_path):
    """A model from the Hub was adapted to own images: 0 hits among others prove nothing, a hit does."""
    TrainingImages.of_run(DIGESTS[:2], complete=False).save(tmp_path)
    assert training_hits(tmp_path, {"a": DIGESTS[2:], "b": DIGESTS[3:]}) is None
    assert training_hits(tmp_path, {"evaluated": DIGESTS[1:], "thresholds": DIGESTS[3:]}) == {
        "evaluated": 1,
        "thresholds": 0,
    }
    TrainingImages.of_run(DIGESTS[2:3], TrainingImages.load(tmp_path)).save(tmp_path)
    assert training_hits(tmp_path, {"evaluated": DIGESTS[3:]}) is None, "adapted twice"
    TrainingImages.of_run(DIGESTS[:2]).save(tmp_path)
    assert training_hits(tmp_path, {"evaluated": DIGESTS[2:]}) == {"evaluated": 0}


def test_images_of_the_teachers_count_and_are_told_apart(tmp_path):
    teacher = TrainingImages.of_run(DIGESTS[2:4])
    TrainingImages.of_run(DIGESTS[:3], teachers=[teacher]).save(tmp_path)
    assert training_hits(tmp_path, {"evaluated": DIGESTS[4:]}) == {"evaluated": 0}
    assert training_hits(tmp_path, {"evaluated": DIGESTS[:3]}) == {"evaluated": 3}, "its own, though the teacher's too"
    assert training_hits(tmp_path, {"evaluated": DIGESTS[1:]}) == {"evaluated": 3, "by_teachers": 1}
    # A student of that student has both behind it; one of a model from the Hub has unknown images behind it.
    TrainingImages.of_run(DIGESTS[4:5], teachers=[TrainingImages.load(tmp_path)]).save(tmp_path)
    assert training_hits(tmp_path, {"evaluated": DIGESTS}) == {"evaluated": 5, "by_teachers": 4}
    TrainingImages.of_run(DIGESTS[:1], teachers=[None]).save(tmp_path)
    assert training_hits(tmp_path, {"evaluated": DIGESTS[1:]}) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"sets": []}',
        '{"sets": [{"salt": "00"}]}',
        '{"sets": [{"salt": "no", "hashes": []}]}',
        '{"sets": [{"salt": "00", "hashes": "abc"}]}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / TRAINING_IMAGES_FILE).write_text(content)
    with pytest.raises(DatasetError, match=r"training_images\.json must list hashes .* Restore it, or delete it"):
        TrainingImages.load(tmp_path)
