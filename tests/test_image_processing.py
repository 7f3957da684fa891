"""MLCAKImageProcessor: accepted inputs and ranges, settings, saving, pipeline; exact numbers throughout."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig, pipeline

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor, image_processing_mlcak
from mlcak_hf.image_processing_mlcak import area_resize, fit_to_square, to_unit_range


def square(side):
    return {"height": side, "width": side}


def random_array(*shape, dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


# --- values ----------------------------------------------------------------------------------------------------------


def test_8_and_16_bit_are_divided_by_their_full_range():
    eight, sixteen = random_array(5, 7), random_array(5, 7, dtype=np.uint16)
    np.testing.assert_array_equal(to_unit_range(eight), eight.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(to_unit_range(sixteen), sixteen.astype(np.float32) / np.float32(65535))
    np.testing.assert_array_equal(to_unit_range(sixteen.astype(">u2")), to_unit_range(sixteen))
    np.testing.assert_array_equal(to_unit_range(np.array([[True, False]])), [[1, 0]])
    assert to_unit_range(eight).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, torch.float32, torch.float64, torch.bfloat16])
def test_floats_in_the_unit_range_are_taken_as_they_are(dtype):
    values = np.array([[0.0, 0.25], [0.5, 1.0]])
    image = torch.tensor(values, dtype=dtype) if isinstance(dtype, torch.dtype) else values.astype(dtype)
    np.testing.assert_array_equal(to_unit_range(image), values.astype(np.float32))


def test_pil_modes_give_the_same_numbers():
    eight, sixteen = random_array(5, 4), random_array(5, 4, dtype=np.uint16)
    grey = Image.fromarray(eight)
    expected = to_unit_range(eight)
    for mode in ("RGB", "RGBA", "LA", "CMYK"):
        # PIL composes equal channels exactly, so colour of a grey image must not shift it by luma rounding.
        np.testing.assert_array_equal(to_unit_range(grey.convert(mode)), expected, err_msg=mode)
    np.testing.assert_array_equal(to_unit_range(grey.convert("P")), expected)
    np.testing.assert_array_equal(to_unit_range(grey.convert("1")), np.array(grey.convert("1"), dtype=np.float32))
    np.testing.assert_array_equal(to_unit_range(Image.fromarray(expected)), expected)
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")):
        image = Image.frombytes(mode, (4, 5), sixteen.astype(order).tobytes())
        np.testing.assert_array_equal(to_unit_range(image), to_unit_range(sixteen), err_msg=mode)


def test_16_bit_png_keeps_its_grey_levels(tmp_path):
    sixteen = random_array(9, 6, dtype=np.uint16)
    Image.fromarray(sixteen).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(to_unit_range(image), to_unit_range(sixteen))


def test_colour_becomes_luma():
    rgb = random_array(6, 5, 3)
    expected = (rgb / 255) @ [0.299, 0.587, 0.114]
    for image in (rgb, rgb.transpose(2, 0, 1), torch.from_numpy(rgb), Image.fromarray(rgb)):
        np.testing.assert_allclose(to_unit_range(image), expected, atol=1e-6)
    # PIL rounds to 8 bit what is kept in float here.
    np.testing.assert_allclose(to_unit_range(rgb), np.array(Image.fromarray(rgb).convert("L")) / 255, atol=1 / 255)


def test_transparency_lies_over_black():
    rgba = random_array(6, 5, 4)
    expected = ((rgba[..., :3] / 255) * (rgba[..., 3:] / 255)) @ [0.299, 0.587, 0.114]
    for image in (rgba, rgba.transpose(2, 0, 1), Image.fromarray(rgba)):
        np.testing.assert_allclose(to_unit_range(image), expected, atol=1e-6)
    grey, alpha = Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])
    expected = (rgba[..., 0] / 255) * (rgba[..., 3] / 255)
    np.testing.assert_allclose(to_unit_range(Image.merge("LA", (grey, alpha))), expected, atol=1e-6)
    palette = Image.fromarray(rgba[..., 0]).convert("P")
    palette.info["transparency"] = 7
    drawn = to_unit_range(palette)
    assert (drawn[rgba[..., 0] == 7] == 0).all()


def test_explicit_range():
    twelve = np.array([[0, 4095], [2048, 1024]], dtype=np.uint16)
    np.testing.assert_allclose(to_unit_range(twelve, (0, 4095)), twelve / 4095, atol=1e-7)
    signed = np.array([[-1024, 0], [1024, 512]], dtype=np.int16)
    np.testing.assert_allclose(to_unit_range(signed, (-1024, 1024)), (signed + 1024) / 2048, atol=1e-7)
    mode_i = Image.fromarray(twelve.astype(np.int32))
    assert mode_i.mode == "I"
    np.testing.assert_allclose(to_unit_range(mode_i, (0, 4095)), twelve / 4095, atol=1e-7)
    processor = MLCAKImageProcessor(size=square(2), value_range=[0, 4095], do_normalize=False)
    np.testing.assert_allclose(processor(twelve)["pixel_values"][0, 0], twelve / 4095, atol=1e-7)
    np.testing.assert_array_equal(
        processor(twelve, value_range=[0, 8190])["pixel_values"], processor(twelve)["pixel_values"] / 2
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2), dtype=np.int16), r"int16 pixels have no range.*value_range"),
        (np.zeros((2, 2), dtype=np.int64), "int64 pixels"),
        (Image.new("I", (2, 2)), "int32 pixels"),
        (torch.zeros(2, 2, dtype=torch.int32), "int32 pixels"),
        (np.full((2, 2), 255.0), r"must lie in \[0, 1\].*from 255 to 255.*value_range"),
        (np.full((2, 2), -0.1), "must lie in"),
        (np.array([[0.5, np.nan]]), "finite"),
        (np.array([[0.5, np.inf]]), "finite"),
        (torch.tensor([[0.5, float("nan")]]), "finite"),
        (np.zeros((2, 2), dtype=complex), "real numbers"),
        (np.zeros((0, 4), dtype=np.uint8), "at least one pixel"),
        (np.zeros(4, dtype=np.uint8), r"shape \(4,\)"),
        (np.zeros((5, 6, 2), dtype=np.uint8), "1, 3 or 4 channels"),
        (np.zeros((5, 6, 7), dtype=np.uint8), "several grey images as a list"),
        (np.zeros((3, 5, 4), dtype=np.uint8), "input_data_format"),
        ("image.png", r"got str.*read_radiograph"),
        (None, "got NoneType"),
    ],
)
def test_images_that_would_need_a_guess_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        to_unit_range(image)
    with pytest.raises(ValueError, match=message):
        MLCAKImageProcessor()(image)


def test_values_outside_an_explicit_range_are_refused():
    with pytest.raises(ValueError, match=r"must lie in \[0, 4095\].*0 to 65535"):
        to_unit_range(np.array([[0, 65535]], dtype=np.uint16), (0, 4095))
    with pytest.raises(ValueError, match="alpha"):
        to_unit_range(random_array(5, 6, 4), (0, 255))
    for bad in ((1, 0), (0, 0), (0,), (0, float("nan"))):
        with pytest.raises(ValueError, match="two ascending finite numbers"):
            to_unit_range(np.zeros((2, 2)), bad)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_all_ways_to_pass_a_batch_agree():
    batch = random_array(3, 20, 17)
    processor = MLCAKImageProcessor(size=square(8))
    expected = processor([batch[0], batch[1], batch[2]], return_tensors="pt")["pixel_values"]
    assert expected.shape == (3, 1, 8, 8)
    assert expected.dtype == torch.float32
    ways = [
        list(torch.from_numpy(batch)),
        [Image.fromarray(image) for image in batch],
        [[batch[0]], [batch[1], batch[2]]],
        batch[:, None],
        batch[..., None],
        torch.from_numpy(batch)[:, None].expand(-1, 3, -1, -1),
        tuple(batch),
    ]
    for way in ways:
        assert torch.equal(processor(way, return_tensors="pt")["pixel_values"], expected)
    np.testing.assert_array_equal(processor(ways[0], return_tensors="np")["pixel_values"], expected.numpy())
    mixed = processor([batch[0], Image.fromarray(batch[1]).convert("RGB"), batch[2].T], return_tensors="np")
    assert mixed["pixel_values"].shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(mixed["pixel_values"][:2], expected[:2].numpy())
    with pytest.raises(ValueError, match="at least one image"):
        processor([])


def test_channel_order_can_be_named_where_both_are_possible():
    image = random_array(3, 5, 4)
    first = to_unit_range(image, input_data_format="channels_first")
    assert first.shape == (5, 4)
    assert to_unit_range(image, input_data_format="channels_last").shape == (3, 5)
    processor = MLCAKImageProcessor(size=square(2))
    np.testing.assert_array_equal(
        processor(image, input_data_format="channels_first")["pixel_values"], processor.reduce(first[None])
    )


@pytest.mark.parametrize("lowres", [None, 7])
@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("shape", [(256, 256), (61, 37), (28, 28)])
def test_reduce_is_the_processor_bit_for_bit(fit, lowres, shape):
    processor = MLCAKImageProcessor(size=square(28), fit=fit, lowres=lowres)
    images = random_array(9, *shape, dtype=np.float32)
    expected = np.concatenate([processor(image)["pixel_values"] for image in images])
    np.testing.assert_array_equal(processor.reduce(images), expected)
    np.testing.assert_array_equal(processor.reduce(images[4:5]), expected[4:5])
    assert processor.reduce(images).dtype == np.float32


def test_reduce_ignores_value_range_and_checks_its_input():
    images = random_array(2, 8, 8, dtype=np.float32)
    plain, ranged = MLCAKImageProcessor(size=square(4)), MLCAKImageProcessor(size=square(4), value_range=[0, 4095])
    np.testing.assert_array_equal(plain.reduce(images), ranged.reduce(images))
    for bad in (
        images[0],
        images[None],
        images * 2,
        images - 1,
        np.full_like(images, np.nan),
        np.zeros((2, 8, 8), int),
    ):
        with pytest.raises(ValueError, match=r"reduce expects|must lie in"):
            plain.reduce(bad)


# --- the whole path --------------------------------------------------------------------------------------------------


def test_path_is_square_area_average_normalise():
    image = random_array(90, 61)
    processor = MLCAKImageProcessor(size=square(28), image_mean=[0.3], image_std=[0.2])
    padded = np.zeros((90, 90))
    padded[:, 14 : 14 + 61] = image / 255
    expected = (area_resize(padded, 28, 28) - 0.3) / 0.2
    np.testing.assert_allclose(processor(image)["pixel_values"][0, 0], expected, atol=1e-5)
    squashed = MLCAKImageProcessor(size=square(28), fit="squash", do_normalize=False)(image)["pixel_values"][0, 0]
    np.testing.assert_allclose(squashed, area_resize(image / 255, 28, 28), atol=1e-6)


def test_lowres_is_area_average_then_bilinear():
    image = random_array(50, 50, dtype=np.float32)
    processor = MLCAKImageProcessor(size=square(20), lowres=6, do_normalize=False)
    small = torch.from_numpy(area_resize(image, 6, 6))[None, None]
    expected = torch.nn.functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(processor(image)["pixel_values"], expected.numpy(), atol=1e-6)
    same = MLCAKImageProcessor(size=square(20), lowres=20, do_normalize=False)(image)["pixel_values"]
    np.testing.assert_allclose(same[0, 0], area_resize(image, 20, 20), atol=1e-6)


def test_three_channels_repeat_the_grey_one():
    image = random_array(30, 30)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    grey = MLCAKImageProcessor(size=square(10), do_normalize=False)(image)["pixel_values"]
    raw = MLCAKImageProcessor(size=square(10), image_mean=mean, image_std=std, do_normalize=False)(image)
    np.testing.assert_array_equal(raw["pixel_values"], np.repeat(grey, 3, axis=1))
    three = MLCAKImageProcessor(size=square(10), image_mean=mean, image_std=std)(image)["pixel_values"]
    for channel in range(3):
        np.testing.assert_allclose(three[:, channel], (grey[:, 0] - mean[channel]) / std[channel], atol=1e-6)


def test_no_step_goes_through_8_bit():
    """A ramp of 16-bit steps far below 1/255 keeps every step."""
    ramp = (30000 + np.arange(64, dtype=np.uint16)).reshape(8, 8).repeat(2, axis=0).repeat(2, axis=1)
    out = MLCAKImageProcessor(size=square(8), do_normalize=False)(ramp)["pixel_values"][0, 0]
    np.testing.assert_allclose(out.ravel() * 65535, 30000 + np.arange(64), atol=0.02)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "crop"}, r"fit must be 'pad' or 'squash'; got 'crop'"),
        ({"voi": "auto"}, "voi must be 'dicom', 'percentile' or 'none'"),
        ({"size": {"height": 28, "width": 56}}, "square"),
        ({"size": {"shortest_edge": 28}}, "square"),
        ({"lowres": 300}, r"between 1 and size \(224\)"),
        ({"lowres": 0}, "lowres"),
        ({"image_mean": [0.5, 0.5]}, "one number per channel"),
        ({"image_mean": [0.5] * 3}, "one number per channel"),
        ({"image_std": [0.0]}, "deviations above 0"),
        ({"value_range": [5, 5]}, "ascending"),
        ({"do_resize": False}, r"has no \['do_resize'\].*its settings are"),
        ({"do_center_crop": True, "crop_size": 20}, "'do_center_crop', 'crop_size'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MLCAKImageProcessor(**settings)
    with pytest.raises(ValueError, match=message):
        MLCAKImageProcessor()(np.zeros((4, 4), dtype=np.uint8), **settings)


def test_saved_settings_are_this_processors_own_and_come_back(tmp_path):
    processor = MLCAKImageProcessor(
        size=square(56), fit="squash", lowres=28, image_mean=[0.4], image_std=[0.3], value_range=[0, 4095], voi="none"
    )
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    saved.pop("auto_map", None)
    assert saved == {
        "image_processor_type": "MLCAKImageProcessor",
        "size": {"height": 56, "width": 56},
        "fit": "squash",
        "lowres": 28,
        "image_mean": [0.4],
        "image_std": [0.3],
        "value_range": [0.0, 4095.0],
        "voi": "none",
        "do_normalize": True,
    }
    image = random_array(40, 33, dtype=np.uint16) // 16
    for loaded in (MLCAKImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is MLCAKImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        np.testing.assert_array_equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])


def test_defaults_come_back_and_can_be_overridden_on_loading(tmp_path):
    MLCAKImageProcessor(size=28, do_normalize=False).save_pretrained(tmp_path)
    loaded = MLCAKImageProcessor.from_pretrained(tmp_path)
    assert (loaded.size["height"], loaded.fit, loaded.lowres, loaded.value_range) == (28, "pad", None, None)
    assert loaded.do_normalize is False
    assert MLCAKImageProcessor.from_pretrained(tmp_path, fit="squash").fit == "squash"


def test_settings_of_one_call_do_not_stick():
    processor = MLCAKImageProcessor(size=square(28))
    image = random_array(40, 30)
    before = processor(image)["pixel_values"]
    assert processor(image, size=square(14), fit="squash", lowres=7)["pixel_values"].shape == (1, 1, 14, 14)
    np.testing.assert_array_equal(processor(image)["pixel_values"], before)


def test_pipeline_needs_no_torchvision(tmp_path):
    backbone = ViTConfig(
        image_size=28, patch_size=7, num_channels=1, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone)).save_pretrained(tmp_path)
    MLCAKImageProcessor(size=square(28)).save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    picture = Image.fromarray(random_array(64, 50))
    picture.save(tmp_path / "radiograph.png")
    answers = [classify(picture), classify(str(tmp_path / "radiograph.png")), classify(picture.convert("RGB"))]
    assert answers[0] == answers[1] == answers[2]
    assert {answer["label"] for answer in answers[0]} == {"Normal", "Abnormal"}


def test_fit_to_square_centres_and_keeps_dtype():
    image = np.full((2, 5), 9, dtype=np.uint8)
    padded = fit_to_square(image, "pad")
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded[1:3], image)
    assert padded.sum() == image.sum()
    assert fit_to_square(image, "squash") is image
    assert fit_to_square(np.zeros((3, 4, 7)), "pad").shape == (3, 7, 7)
    with pytest.raises(ValueError, match="fit must be 'pad' or 'squash'"):
        fit_to_square(image, "stretch")


def test_an_almost_white_image_is_warned_about_once(monkeypatch):
    warnings = []
    monkeypatch.setattr(image_processing_mlcak.logger, "warning", lambda text, *_: warnings.append(text))
    image_processing_mlcak.logger.warning_once.__func__.cache_clear()
    for value in (100, 255, 255):
        MLCAKImageProcessor()(np.full((30, 30), value, np.uint8))
    assert len(warnings) == 1
    assert "almost entirely white" in warnings[0]


def test_a_data_format_is_refused():
    with pytest.raises(ValueError, match="data_format"):
        MLCAKImageProcessor()(np.zeros((30, 30), np.uint8), data_format="channels_last")
