"""Batches: the evaluation's pixels are the processor's, and teacher and student see one view."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import DistillationError
from mlcak_hf.image_processing_mlcak import area_resize

UNCHANGED = ViewParameters(rotation_deg=0, min_scale=1, max_scale=1, shift=0, max_gamma=1, max_contrast=1)


def processor(side: int, **settings) -> MLCAKImageProcessor:
    return MLCAKImageProcessor(size={"height": side, "width": side}, **settings)


def rows(count: int = 3, shape=(64, 64), seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, shape).astype(np.uint8),
            "labels": i % 2,
            "local_targets": [0.0, -1.0],
            "index": i,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("shape", [(64, 64), (50, 64), (300, 280)])
def test_evaluation_gives_the_processors_own_pixels(shape):
    batch = MLCAKCollator(processor(16), processor(32), ViewParameters()).for_evaluation()(rows(shape=shape))
    expected = processor(16)([row["image"] for row in rows(shape=shape)], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert sorted(batch) == ["labels", "local_targets", "pixel_values"]


def test_views_that_change_nothing_give_the_evaluations_pixels_bit_for_bit():
    collator = MLCAKCollator(processor(28), processor(56), UNCHANGED)
    train, evaluation = collator(rows(shape=(224, 224))), collator.for_evaluation()(rows(shape=(224, 224)))
    assert torch.equal(train["pixel_values"], evaluation["pixel_values"])
    teacher = processor(56)([row["image"] for row in rows(shape=(224, 224))], return_tensors="pt")["pixel_values"]
    assert torch.equal(train["teacher_pixel_values"], teacher)


def test_teacher_and_student_see_the_same_view():
    """The student's pixels are the area average of the teacher's, each with its own normalisation undone."""
    ours, theirs = (
        processor(16, image_mean=[0.4], image_std=[0.3]),
        processor(32, image_mean=[0.1] * 3, image_std=[0.9] * 3),
    )
    batch = MLCAKCollator(ours, theirs, ViewParameters(), seed=3)(rows())
    assert batch["teacher_pixel_values"].shape == (3, 3, 32, 32)
    teacher = batch["teacher_pixel_values"][:, 0].numpy() * 0.9 + 0.1
    student = batch["pixel_values"][:, 0].numpy() * 0.3 + 0.4
    # The first-order correction of a view can leave a pixel beside the dark just below 0, where it is clipped.
    np.testing.assert_allclose(area_resize(teacher, 16, 16), student, atol=2e-5)


def test_images_of_several_shapes_keep_their_places():
    mixed = rows(1, (64, 64)) + rows(1, (40, 64), seed=1) + rows(1, (64, 64), seed=2) + rows(1, (600, 500), seed=3)
    for number, row in enumerate(mixed):
        row["index"] = number
    collator = MLCAKCollator(processor(16), processor(32), ViewParameters())
    together = collator(mixed)
    for number, row in enumerate(mixed):
        alone = collator([row])
        for name in ("pixel_values", "teacher_pixel_values"):
            assert torch.equal(together[name][number], alone[name][0]), (number, name)


def test_a_large_image_is_reduced_before_its_view():
    (row,) = rows(1, (300, 200))
    view = MLCAKCollator(processor(16), views=UNCHANGED, max_px=60)([row])["pixel_values"]
    exact = processor(16)(row["image"], return_tensors="pt")["pixel_values"]
    assert not torch.equal(view, exact)
    torch.testing.assert_close(view, exact, atol=0.2, rtol=0)


def test_pil_images_are_taken_as_they_come():
    image = rows(1)[0]["image"]
    as_pil = MLCAKCollator(processor(16))([{"image": Image.fromarray(image).convert("RGB")}])
    assert torch.equal(as_pil["pixel_values"], MLCAKCollator(processor(16))([{"image": image}])["pixel_values"])
    assert sorted(as_pil) == ["pixel_values"]


def test_labels_keep_their_kind():
    batch = MLCAKCollator(processor(16))(rows())
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["local_targets"].dtype == torch.float32
    soft = MLCAKCollator(processor(16))([row | {"labels": np.array([0.3, 0.7])} for row in rows()])
    assert soft["labels"].shape == (3, 2)
    assert soft["labels"].dtype == torch.float32
    several = MLCAKCollator(processor(16))([row | {"labels": [0, 1]} for row in rows()])
    assert several["labels"].dtype == torch.float32


def test_each_teacher_has_pixels_of_its_own():
    batch = MLCAKCollator(processor(16), [processor(32), processor(48), processor(64)])(rows())
    keys = ["pixel_values", "teacher_pixel_values", "teacher_pixel_values_2", "teacher_pixel_values_3"]
    assert [batch[key].shape[-1] for key in keys] == [16, 32, 48, 64]


def test_the_view_key_holds_everything_that_makes_a_view():
    plain, drawn = MLCAKCollator(processor(16)), MLCAKCollator(processor(16), views=ViewParameters(), max_px=64)
    assert [plain.view_key()[name] for name in ("ranges", "seed", "max_px")] == [None, None, None]
    assert [drawn.view_key()[name] for name in ("seed", "max_px")] == [0, 64]
    assert drawn.view_key()["ranges"] == asdict(ViewParameters())


def test_workers_that_outlive_an_epoch_follow_it():
    collator = MLCAKCollator(processor(16), processor(32), ViewParameters(), seed=1)
    here = []
    for epoch in (0, 1):
        collator.set_epoch(epoch)
        here.append(collator(rows())["pixel_values"])
    assert not torch.equal(*here)
    collator.set_epoch(0)
    loader = DataLoader(rows(), batch_size=3, num_workers=1, persistent_workers=True, collate_fn=collator)
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["pixel_values"], here[epoch]), epoch


def test_processors_that_make_other_squares_are_refused():
    with pytest.raises(DistillationError, match="fit: teacher 'squash', student 'pad'"):
        MLCAKCollator(processor(16), processor(32, fit="squash"))
    with pytest.raises(DistillationError, match="value_range"):
        MLCAKCollator(processor(16, value_range=[0, 4095]), processor(32))
    MLCAKCollator(processor(16, value_range=[0, 4095]), processor(32, value_range=(0, 4095)))
    loaded = processor(32, value_range=(0, 4095))
    loaded.value_range = [0, 4095]
    MLCAKCollator(processor(16, value_range=(0, 4095)), loaded)
