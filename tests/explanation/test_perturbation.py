"""Deletion, insertion and random weights on models and maps with an answer that is known."""

import numpy as np
import pytest
import torch
from tiny_models import images, tiny_model

from mlcak_hf.explanation.choices import label_names
from mlcak_hf.explanation.explain import explain, log_odds
from mlcak_hf.explanation.perturbation import (
    deletion_and_insertion,
    label_probabilities,
    rank_correlation,
    with_random_weights,
)


def looks_at_the_first_patch(pixels):
    """A model that gives the mean of the patch at the top left, of 4 x 4 pixels."""
    return pixels[:, 0, :4, :4].mean(dim=(1, 2)).double().numpy()


def image_with_a_bright_first_patch():
    pixels = torch.zeros(1, 1, 16, 16)
    pixels[:, :, :4, :4] = 1.0
    return pixels


def test_the_map_that_finds_the_patch_has_the_lowest_deletion_and_the_highest_insertion():
    pixels, shown = image_with_a_bright_first_patch(), np.ones((1, 4, 4))
    right, wrong = np.zeros((2, 1, 4, 4))
    right[0, 0, 0], wrong[0] = 1.0, np.arange(16).reshape(4, 4)
    grey = 1 / 16  # the mean of the image, in place of a removed patch
    deletion, insertion = deletion_and_insertion(looks_at_the_first_patch, pixels, right, shown, steps=16)
    assert deletion[0] == pytest.approx((1 / 2 + 15.5 * grey) / 16)  # removed in the first of 16 steps
    assert insertion[0] == pytest.approx((grey / 2 + 15.5) / 16)
    deletion, insertion = deletion_and_insertion(looks_at_the_first_patch, pixels, wrong, shown, steps=16)
    assert deletion[0] == pytest.approx((15.5 + grey / 2) / 16)  # in the last
    assert insertion[0] == pytest.approx((15.5 * grey + 1 / 2) / 16)


def test_padding_is_neither_removed_nor_counted():
    pixels, shown = image_with_a_bright_first_patch(), np.ones((1, 4, 4))
    shown[0, 0, 0] = 0  # the bright patch is padding
    maps = np.ones((1, 4, 4))
    assert deletion_and_insertion(looks_at_the_first_patch, pixels, maps, shown)[0][0] == pytest.approx(1.0)


def test_equal_values_are_not_taken_from_left_to_right():
    pixels, shown = image_with_a_bright_first_patch().expand(200, -1, -1, -1), np.ones((200, 4, 4))
    deletion, _ = deletion_and_insertion(looks_at_the_first_patch, pixels, np.ones((200, 4, 4)), shown, steps=16)
    assert deletion.mean() == pytest.approx((1 + 1 / 16) / 2, abs=0.05)


def test_probabilities_are_those_of_the_model_for_either_head():
    model, pixels = tiny_model(), images(2)
    with torch.no_grad():
        output = model(pixels)
    names = label_names(model.config)
    findings = label_probabilities(model, pixels, [names.index("Pneumothorax")] * 2)
    abnormal = label_probabilities(model, pixels, [names.index("Abnormal")] * 2)
    assert findings == pytest.approx(output.local_logits[:, 2].sigmoid().numpy(), rel=1e-5)
    assert abnormal == pytest.approx(output.logits.softmax(-1)[:, 1].numpy(), rel=1e-4)
    assert log_odds(output.logits, output.local_logits, "single_label_classification").shape == (2, 5)


@pytest.mark.parametrize("patch_embedding", ["linear", "conv"])
def test_random_weights_leave_the_model_alone_and_change_its_maps(patch_embedding):
    model, pixels = tiny_model(patch_embedding=patch_embedding, trunk_widths=[8, 8, 8]), images(2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    random, again = with_random_weights(model), with_random_weights(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(map(torch.equal, random.parameters(), again.parameters()))
    trained, untrained = (explain(each, pixels, [0, 0])["gradient"] for each in (model, random))
    assert (np.abs(rank_correlation(trained, untrained, np.ones((2, 4, 4)))) < 0.9).all()


def test_rank_correlation_ignores_scale_and_padding():
    maps = np.arange(16, dtype=float).reshape(1, 4, 4)
    shown = np.ones((1, 4, 4))
    assert rank_correlation(maps, np.exp(maps), shown) == pytest.approx(1)
    assert rank_correlation(maps, -maps, shown) == pytest.approx(-1)
    other = maps.copy()
    other[0, 0, 0] = 99
    shown[0, 0, 0] = 0
    assert rank_correlation(maps, other, shown) == pytest.approx(1)
    assert np.isnan(rank_correlation(maps, np.ones((1, 4, 4)), shown)).all()
