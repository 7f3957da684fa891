"""Tests of a map by changing what it explains: the image, patch by patch, or the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from ..modeling_mlcak import MLCAKForCXRClassification
from .explain import Maps, log_odds

Values = NDArray[np.float64]


def label_probabilities(model: MLCAKForCXRClassification, pixel_values: Tensor, labels: Sequence[int]) -> Values:
    """Compute the probability of one label of each image.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The model, in evaluation mode.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            From the model's processor.
        labels (`Sequence[int]` of length `B`):
            As [`label_index`] numbers them.

    Returns:
        `np.ndarray` of shape `(B,)`.
    """
    with torch.inference_mode():
        output = model(pixel_values)
        scores = log_odds(output.logits, output.local_logits, str(model.config.problem_type)).sigmoid()
    return scores[torch.arange(len(scores)), torch.as_tensor(labels)].double().cpu().numpy()


def deletion_and_insertion(
    probability: Callable[[Tensor], Values], pixel_values: Tensor, maps: Maps, shown: Maps, steps: int = 10
) -> tuple[Values, Values]:
    """Remove the patches of the radiograph in the order of a map, or add them to an empty one.

    A removed patch has the mean grey value of its radiograph. Patches with the same value follow in a random order with
    a fixed seed.

    Args:
        probability (`Callable`):
            From pixels to the probability of the explained label of each image.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            From the model's processor.
        maps (`np.ndarray` of shape `(B, rows, columns)`):
            One for each image.
        shown (`np.ndarray` of the same shape):
            Share of each patch that is on the radiograph. Patches of padding stay as they are.
        steps (`int`, *optional*, defaults to 10):
            Number of equal steps from none to all of the patches.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The mean probability along the way (the area under the curve), of shape `(B,)`,
        for deletion (low if the map found what matters) and for insertion (high if it did).

    References:
        Petsiuk, Das and Saenko, RISE (BMVC 2018), section 4.3, where insertion starts from a blurred image.
    """
    places = _order(maps, shown)
    patch = pixel_values.shape[-1] // maps.shape[-1]
    on_radiograph = _as_pixels(shown > 0, patch, pixel_values)
    area = on_radiograph.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    grey = (pixel_values * on_radiograph).sum(dim=(-2, -1), keepdim=True) / area
    empty = torch.where(on_radiograph, grey, pixel_values)
    full, none = probability(pixel_values), probability(empty)
    deletion, insertion = [full], [none]
    for step in range(1, steps):
        first = _as_pixels((places < step / steps) & (shown > 0), patch, pixel_values)
        deletion.append(probability(torch.where(first, grey, pixel_values)))
        insertion.append(probability(torch.where(first, pixel_values, empty)))
    curves = np.stack([[*deletion, none], [*insertion, full]])
    below = (curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2
    return below[0], below[1]


def _order(maps: Maps, shown: Maps) -> Values:
    """Share of the radiograph's patches that come before each patch: 0 for the highest value, 1 on the padding."""
    places = np.ones(maps.shape)
    random = np.random.default_rng(0)
    for place, values, visible in zip(places, maps, shown > 0, strict=True):
        order = np.lexsort((random.random(visible.sum()), -values[visible]))
        ranks = np.empty(len(order))
        ranks[order] = np.arange(len(order)) / len(order)
        place[visible] = ranks
    return places


def _as_pixels(patches: NDArray[np.bool_], patch: int, pixel_values: Tensor) -> Tensor:
    """Enlarge a mask of patches `(B, rows, columns)` to pixels, `(B, 1, H, W)`."""
    mask = torch.from_numpy(patches).to(pixel_values.device)
    return mask.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2).unsqueeze(1)


def with_random_weights(model: MLCAKForCXRClassification, seed: int = 2018) -> MLCAKForCXRClassification:
    """Make the same model with initial weights. A map that stays the same explains nothing that was learned.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The trained model; it is not changed.
        seed (`int`, *optional*, defaults to 2018):
            Seed of the weights. With the seed of the training, they would be the model's own initial weights.

    References:
        Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), with all layers at once.
    """
    config: Any = type(model.config).from_dict(model.config.to_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random: MLCAKForCXRClassification = type(model)(config)
    trained = next(model.parameters())
    torch.nn.Module.to(random, trained.device, trained.dtype)
    random.train(False)
    return random


def rank_correlation(first: Maps, second: Maps, shown: Maps) -> Values:
    """Compute Spearman's correlation of two maps of each image, over the patches on its radiograph.

    Args:
        first, second (`np.ndarray` of shape `(n, rows, columns)`):
            Maps of the same images.
        shown (`np.ndarray` of the same shape):
            Share of each patch that is on the radiograph.

    Returns:
        `np.ndarray` of shape `(n,)`: in [-1, 1]; NaN where a map is constant.
    """
    result = np.full(len(first), np.nan)
    for index, visible in enumerate(shown > 0):
        ranks = [rankdata(maps[index][visible]) for maps in (first, second)]
        if all(np.ptp(each) > 0 for each in ranks):
            result[index] = np.corrcoef(*ranks)[0, 1]
    return result
