"""Change a pretrained backbone's resolution, patch size and channels while keeping what it computes."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from .configuration_mlcak import BACKBONE_PREFIX_TOKENS, MLCAKConfig
from .image_geometry_mlcak import area_weights
from .image_processing_mlcak import MLCAKImageProcessor

logger = logging.get_logger(__name__)

#: Mean and standard deviation, one number each or one per channel.
Normalisation = tuple[Sequence[float], Sequence[float]]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: Normalisation of the published checkpoints of each type, for those that carry no preprocessor_config.json.
_USUAL_NORMALISATION = {"vit": _HALF, "deit": _IMAGENET, "dinov2": _IMAGENET, "dinov2_with_registers": _IMAGENET}
_PROJECTION = "embeddings.patch_embeddings.projection"


def resize_patch_filters(weight: Tensor, patch_size: int) -> Tensor:
    """
    Resize patch filters by the pseudo-inverse of the area average `A`: `w' = pinv(A^T) w` along either axis.

    It minimises `E[(<x, w> - <A x, w'>)^2]` over white patches `x`; where patches are enlarged it is exact,
    `<A x, w'> = <x, w>`.

    Args:
        weight (`torch.Tensor` of shape `(D, C, p, p)`): Convolution filters of the patch embedding.
        patch_size (`int`): New side of a patch, in pixels.

    Returns:
        `torch.Tensor` of shape `(D, C, patch_size, patch_size)`.

    References:
        Beyer et al., FlexiViT: One Model for All Patch Sizes (CVPR 2023), equation 7.
    """
    old_size = weight.shape[-1]
    if old_size == patch_size:
        return weight.clone()
    area = torch.tensor(area_weights(old_size, patch_size), dtype=torch.float64)
    operator: Tensor = torch.linalg.pinv(area.T)
    return (operator @ weight.double() @ operator.T).to(weight.dtype)


def fold_channels(
    weight: Tensor, bias: Tensor, old: Normalisation, new: Normalisation, num_channels: int
) -> tuple[Tensor, Tensor]:
    """
    Make patch filters expect another normalisation and, for one channel, a grey image instead of three equal channels.

    `w'_c = w_c * s'_c / s_c` and `b' = b + sum_c w_c * (m'_c - m_c) / s_c`, summed over `c` for one channel. Exact,
    because the patch convolution has no padding.

    Args:
        weight (`torch.Tensor` of shape `(D, C, p, p)`): Filters.
        bias (`torch.Tensor` of shape `(D,)`): Their bias.
        old (`tuple` of two `Sequence[float]`): Mean and standard deviation that the filters were trained with.
        new (`tuple` of two `Sequence[float]`): Those of the new model's input.
        num_channels (`int`): 1 or `C`.

    Returns:
        Weight of shape `(D, num_channels, p, p)` and bias of shape `(D,)`.
    """
    old_mean, old_std, new_mean, new_std = (
        torch.tensor(list(values), dtype=torch.float64).view(-1, 1, 1) for values in (*old, *new)
    )
    filters = weight.double()
    folded = filters * (new_std / old_std)
    shift = (filters * ((new_mean - old_mean) / old_std)).sum(dim=(1, 2, 3))
    if num_channels == 1:
        folded = folded.sum(dim=1, keepdim=True)
    return folded.to(weight.dtype), (bias.double() + shift).to(bias.dtype)


def adapt_backbone(
    path_or_id: str | os.PathLike[str],
    image_size: int,
    patch_size: int,
    num_channels: int,
    image_mean: Sequence[float] | None,
    image_std: Sequence[float] | None,
) -> tuple[Any, dict[str, Tensor]]:
    """
    Load a checkpoint and adapt configuration and weights; see [`MLCAKForCXRClassification.from_backbone`].

    Returns:
        The new backbone configuration and a state dict that fits it.

    Raises:
        ValueError: If the checkpoint is of another family, or channels or normalisation do not fit.
    """
    model_type = AutoConfig.from_pretrained(path_or_id).model_type
    if model_type not in BACKBONE_PREFIX_TOKENS:
        raise ValueError(
            f"The checkpoint must be of type {sorted(BACKBONE_PREFIX_TOKENS)}; got {model_type!r} in {path_or_id}."
        )
    # Safetensors only: a pickle can run any program when it is loaded.
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    source, report = AutoModel.from_pretrained(path_or_id, **options)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"{path_or_id} must hold all weights of a {model_type!r} backbone; it lacks {missing[:3]}.")
    source_channels = source.config.num_channels
    if num_channels not in (1, source_channels):
        raise ValueError(f"num_channels must be 1 or the checkpoint's {source_channels}; got {num_channels}.")

    backbone_config = copy.deepcopy(source.config)
    backbone_config.image_size, backbone_config.patch_size = image_size, patch_size
    backbone_config.num_channels = num_channels
    # The new model has its own labels, architecture and name.
    backbone_config.num_labels, backbone_config.architectures, backbone_config.name_or_path = 2, None, ""
    grid = MLCAKConfig(backbone_config=backbone_config).image_size // patch_size

    state_dict = dict(source.state_dict())
    state_dict["embeddings.position_embeddings"] = _interpolate_positions(
        source.embeddings, grid, BACKBONE_PREFIX_TOKENS[model_type]
    )
    weight = resize_patch_filters(state_dict[f"{_PROJECTION}.weight"], patch_size)
    bias = state_dict[f"{_PROJECTION}.bias"]
    if num_channels == 1 or image_mean is not None or image_std is not None:
        old = _read_normalisation(path_or_id, model_type, source_channels)
        # The default is what feeds the model: this package's processor for one channel, else the checkpoint's own.
        mean, std = (MLCAKImageProcessor.image_mean, MLCAKImageProcessor.image_std) if num_channels == 1 else old
        new = (mean if image_mean is None else image_mean, std if image_std is None else image_std)
        if not {len(new[0]), len(new[1])} <= {1, num_channels} or min(new[1]) <= 0:
            raise ValueError(
                f"image_mean and image_std must hold one number, or one for each of the {num_channels} channels, "
                f"deviations above 0; got {list(new[0])} and {list(new[1])}."
            )
        weight, bias = fold_channels(weight, bias, old, new, num_channels)
    state_dict[f"{_PROJECTION}.weight"], state_dict[f"{_PROJECTION}.bias"] = weight, bias
    return backbone_config, state_dict


@torch.no_grad()
def _interpolate_positions(embeddings: Any, grid: int, prefix_tokens: int) -> Tensor:
    """Interpolate the position embeddings of the patches with the backbone's own method."""
    side = embeddings.patch_embeddings.patch_size[0] * grid
    tokens = torch.zeros(1, grid * grid + prefix_tokens, embeddings.position_embeddings.shape[-1])
    interpolated: Tensor = embeddings.interpolate_pos_encoding(tokens, side, side)
    return interpolated.clone()


def _read_normalisation(path_or_id: str | os.PathLike[str], model_type: str, num_channels: int) -> Normalisation:
    """Mean and standard deviation per channel that the checkpoint was trained with."""
    own = (MLCAKImageProcessor.image_mean, MLCAKImageProcessor.image_std)
    usual = own if num_channels == 1 else _USUAL_NORMALISATION[model_type]
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(path_or_id)
    except OSError:
        settings = {}
        logger.warning(
            f"{path_or_id} has no preprocessor_config.json: assuming image_mean and image_std {usual}, as usual for "
            f"{num_channels}-channel checkpoints of type {model_type!r}."
        )
    if settings.get("do_normalize") is False:
        settings |= {"image_mean": [0.0], "image_std": [1.0]}
    mean, std = (np.atleast_1d(settings.get(name) or usual[i]) for i, name in enumerate(("image_mean", "image_std")))
    if not {len(mean), len(std)} <= {1, num_channels}:
        raise ValueError(
            f"image_mean and image_std in the checkpoint's preprocessor_config.json must hold one number for each of "
            f"its {num_channels} channels; got {mean.tolist()} and {std.tolist()}."
        )
    # Some checkpoints were fed with other units than 8-bit pixels / 255.
    unit = 255 * (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale") is not False else 255
    return (np.resize(mean, num_channels) / unit).tolist(), (np.resize(std, num_channels) / unit).tolist()
