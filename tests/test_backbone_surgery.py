"""from_backbone: resolution, patches and channels of a pretrained backbone change, what it computes does not."""

import json

import numpy as np
import pytest
import torch
from tiny_models import FINDINGS, MODELS, TYPES, backbone_config, images, randomise
from torch import nn
from transformers import (
    AutoModel,
    DeiTForImageClassificationWithTeacher,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetModel,
    ViTForImageClassification,
)

from mlcak_hf import MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.backbone_surgery_mlcak import fold_channels, resize_patch_filters
from mlcak_hf.image_geometry_mlcak import area_resize, area_weights

GREY, IMAGENET = ((0.5,), (0.25,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pretrained(tmp_path, model_type="vit", mean_std=IMAGENET, **fields):
    """A checkpoint of a 3-channel backbone, 24 px, 4 px patches (6 x 6 grid), with its preprocessor_config.json."""
    config = backbone_config(model_type, **({"image_size": 24, "num_channels": 3} | fields))
    source = randomise(MODELS[model_type](config), seed=5).eval()
    source.save_pretrained(tmp_path)
    if mean_std is not None:
        settings = {"image_mean": list(mean_std[0]), "image_std": list(mean_std[1]), "do_normalize": True}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return source


def normalised(grey, mean_std, channels):
    """Slow reference of normalisation: grey images (B, H, W) in [0, 1] -> (B, channels, H, W)."""
    planes = [(grey - mean_std[0][c % len(mean_std[0])]) / mean_std[1][c % len(mean_std[1])] for c in range(channels)]
    return torch.stack(planes, dim=1)


def grey_images(size=24, seed=2):
    return torch.rand(2, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("model_type", TYPES)
def test_unchanged_backbone_gives_the_original_features(model_type, tmp_path):
    source, x = pretrained(tmp_path, model_type), images(size=24, channels=3)
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4, num_channels=3, local_labels=FINDINGS)
    assert not model.training
    assert model.config.local_labels == FINDINGS
    torch.testing.assert_close(model.backbone(x).last_hidden_state, source(x).last_hidden_state, rtol=0, atol=2e-6)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("mean_std", [IMAGENET, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
def test_one_channel_gives_the_features_of_three_equal_ones(model_type, mean_std, tmp_path):
    source, grey = pretrained(tmp_path, model_type, mean_std), grey_images()
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4)
    # The default is the normalisation of the default image processor.
    processor = MLCAKImageProcessor(size={"height": 24, "width": 24})
    pixel_values = torch.from_numpy(processor.reduce(grey.numpy()))
    expected = source(normalised(grey, mean_std, 3)).last_hidden_state
    assert model.config.num_channels == 1
    torch.testing.assert_close(model.backbone(pixel_values).last_hidden_state, expected, rtol=0, atol=1e-5)
    other = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4, image_mean=[0.3], image_std=[0.7])
    pixel_values = normalised(grey, ((0.3,), (0.7,)), 1)
    torch.testing.assert_close(other.backbone(pixel_values).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_folding_is_exact_in_the_patch_embedding():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 3, 4, 4, generator=generator) * 0.1, torch.randn(24, generator=generator)
    grey = grey_images()
    expected = nn.functional.conv2d(normalised(grey, IMAGENET, 3), weight, bias, stride=4)
    folded = fold_channels(weight, bias, IMAGENET, GREY, 1)
    assert folded[0].shape == (24, 1, 4, 4)
    actual = nn.functional.conv2d(normalised(grey, GREY, 1), *folded, stride=4)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)
    new = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    rescaled = fold_channels(weight, bias, IMAGENET, new, 3)
    actual = nn.functional.conv2d(normalised(grey, new, 3), *rescaled, stride=4)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("model_type", TYPES)
def test_larger_patches_see_the_enlarged_image_as_the_original(model_type, factor, tmp_path):
    source, grey = pretrained(tmp_path, model_type), grey_images()
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 24 * factor, 4 * factor)
    enlarged = torch.from_numpy(area_resize(grey.numpy(), 24 * factor, 24 * factor))
    expected = source(normalised(grey, IMAGENET, 3)).last_hidden_state
    actual = model.backbone(normalised(enlarged, GREY, 1)).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", [2, 1])
@pytest.mark.parametrize("model_type", TYPES)
def test_smaller_patches_see_the_small_image_as_the_original_sees_it_enlarged(model_type, patch_size, tmp_path):
    source, small = pretrained(tmp_path, model_type), grey_images(size=6 * patch_size)
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 6 * patch_size, patch_size)
    enlarged = torch.from_numpy(area_resize(small.numpy(), 24, 24))
    expected = source(normalised(enlarged, IMAGENET, 3)).last_hidden_state
    actual = model.backbone(normalised(small, GREY, 1)).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(4, 6), (16, 18), (14, 16), (16, 14), (6, 4), (16, 4), (14, 2)])
def test_filter_resize_is_the_least_squares_solution(old, new):
    """For white patches x: E[(<x, w> - <A x, w'>)^2] = |w - A2^T w'|^2, minimised here by a plain solver in 2-D."""
    weight = torch.randn(3, 2, old, old, generator=torch.Generator().manual_seed(0))
    area = torch.tensor(np.kron(area_weights(old, new), area_weights(old, new))).double()
    expected = torch.linalg.lstsq(area.T, weight.double().flatten(2).reshape(6, -1).T, driver="gelsd").solution.T
    resized = resize_patch_filters(weight, new)
    torch.testing.assert_close(resized.double().reshape(6, -1), expected, rtol=0, atol=2e-6)
    if new > old:
        patches = torch.rand(5, old, old, generator=torch.Generator().manual_seed(1))
        enlarged = torch.from_numpy(area_resize(patches.numpy(), new, new))
        torch.testing.assert_close(
            torch.einsum("dcij,bij->bdc", resized, enlarged),
            torch.einsum("dcij,bij->bdc", weight, patches),
            rtol=0,
            atol=1e-5,
        )


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("size", [16, 40])
def test_positions_are_those_of_the_backbones_own_interpolation(model_type, size, tmp_path):
    """At another size the original, asked to interpolate its positions, gives the same features; prefix tokens stay."""
    source, x = pretrained(tmp_path, model_type), images(size=size, channels=3)
    model = MLCAKForCXRClassification.from_backbone(tmp_path, size, 4, num_channels=3)
    asked = {} if model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}
    torch.testing.assert_close(
        model.backbone(x).last_hidden_state, source(x, **asked).last_hidden_state, rtol=0, atol=2e-6
    )
    prefix = 2 if model_type == "deit" else 1
    positions = [net.embeddings.position_embeddings[:, :prefix] for net in (model.backbone, source)]
    assert torch.equal(*positions)
    assert model.grid_size == (size // 4, size // 4)


@pytest.mark.parametrize(
    ("model_class", "model_type"),
    [
        (ViTForImageClassification, "vit"),
        (DeiTForImageClassificationWithTeacher, "deit"),
        (Dinov2ForImageClassification, "dinov2"),
    ],
)
def test_classifier_checkpoints_give_their_backbone_without_their_labels(model_class, model_type, tmp_path):
    config = backbone_config(model_type, image_size=24, num_channels=3, num_labels=7)
    source = randomise(model_class(config)).eval()
    source.save_pretrained(tmp_path)
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4, num_channels=3)
    x = images(size=24, channels=3)
    expected = source.base_model(x).last_hidden_state
    torch.testing.assert_close(model.backbone(x).last_hidden_state, expected, rtol=0, atol=2e-6)
    assert model.config.num_labels == 2
    saved = json.dumps(model.config.to_dict(), default=str)
    assert "LABEL_6" not in saved
    assert str(tmp_path) not in saved


def test_adapted_model_survives_saving(tmp_path):
    pretrained(tmp_path / "source", "dinov2")
    model = MLCAKForCXRClassification.from_backbone(tmp_path / "source", 28, 2, local_labels=FINDINGS)
    model.save_pretrained(tmp_path / "model")
    loaded = MLCAKForCXRClassification.from_pretrained(tmp_path / "model")
    x = images(size=28)
    assert torch.equal(model(x).logits, loaded(x).logits)


def test_normalisation_without_a_preprocessor_is_the_usual_one_with_a_warning(tmp_path, caplog):
    source, grey = pretrained(tmp_path, "deit", mean_std=None), grey_images()
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        model = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4)
    finally:
        logging.disable_propagation()
    assert "no preprocessor_config.json" in caplog.text
    expected = source(normalised(grey, IMAGENET, 3)).last_hidden_state
    torch.testing.assert_close(model.backbone(normalised(grey, GREY, 1)).last_hidden_state, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"do_normalize": False}, ((0.0,), (1.0,))),
        ({"image_mean": 0.4, "image_std": 0.2}, ((0.4,), (0.2,))),
        # Fed with 2 * pixel / 255 - 1 = (x - 0.5) / 0.5 of x = pixel / 255.
        ({"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 2 / 255}, ((0.5,), (0.5,))),
        ({"image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False}, ((0.5,), (0.5,))),
    ],
)
def test_preprocessor_settings_are_understood(settings, seen, tmp_path):
    source, grey = pretrained(tmp_path, mean_std=None), grey_images()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4)
    expected = source(normalised(grey, seen, 3)).last_hidden_state
    torch.testing.assert_close(model.backbone(normalised(grey, GREY, 1)).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_channels must be 1 or the checkpoint's 3; got 2"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4, num_channels=2)
    with pytest.raises(ValueError, match="image_mean and image_std must hold"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4, image_mean=[0.1, 0.2], image_std=[1.0])
    with pytest.raises(Exception, match="image_size=24 and patch_size=5"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 24, 5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2], "image_std": [1, 1]}))
    with pytest.raises(ValueError, match="for each of its 3 channels; got"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4)

    ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ValueError, match="got 'resnet'"):
        MLCAKForCXRClassification.from_backbone(tmp_path / "resnet", 24, 4)


def test_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layernorm.weight" not in name},
        tmp_path / "model.safetensors",
    )
    assert AutoModel.from_pretrained(tmp_path) is not None
    with pytest.raises(ValueError, match=r"it lacks .*layernorm.weight"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 24, 4)
