"""The model to train: of a shipped size, from a pretrained backbone, or trained before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import logging

from ..configuration_mlcak import MLCAKConfig
from ..errors import RecipeError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification
from ..pretrained import load_config, load_model, load_processor, loading
from ..shipped import resolve_model
from ..weights import weight_files
from .arguments import check_weight

logger = logging.get_logger(__name__)


@dataclass
class ModelArguments:
    """Which model to train.

    Args:
        model (`str`):
            A size in hub_configs/models, or the folder or Hub id of a trained model.
        backbone (`str`, *optional*):
            A pretrained ViT, DeiT or DINOv2 checkpoint (folder or Hub id), resized to that size. Defaults to random
            weights, or to those of `model` if it has any.
        local_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight (lambda) of the local findings' loss.

    Raises:
        [`RecipeError`]: When the weight is negative or not finite.
    """

    model: str = field(metadata={"help": "Size in hub_configs/models, or a trained model."})
    backbone: str | None = field(default=None, metadata={"help": "Pretrained ViT, DeiT or DINOv2: folder or Hub id."})
    local_loss_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of the local findings' loss."})

    def __post_init__(self) -> None:
        check_weight("local_loss_weight", self.local_loss_weight)


def build_model(
    arguments: ModelArguments, labels: dict[str, Any]
) -> tuple[MLCAKForCXRClassification, MLCAKImageProcessor]:
    """Make a model for these labels.

    Args:
        arguments ([`ModelArguments`]):
            Which model.
        labels (`dict[str, Any]`):
            `id2label`, `local_labels` and `problem_type`, as [`TrainingData.labels`].

    Returns:
        `tuple`: The model, and the image processor of its size; the filters of a backbone are adapted to the
        normalization of this processor. A trained head for the same labels in another order is reordered; one for
        other labels is initialized again.

    Raises:
        [`RecipeError`]: When there is no such model or backbone, the backbone is not supported, or the processor does
            not fit.
    """
    folder = resolve_model(arguments.model)
    size = load_config(folder)
    processor = load_processor(folder, size)
    labels = labels | {"local_loss_weight": arguments.local_loss_weight}
    if arguments.backbone is not None:
        if size.patch_embedding != "linear" or not size.has_attention:
            raise RecipeError(
                f"--backbone must be left out for {arguments.model}, because only ViT, DeiT and DINOv2 are adapted, "
                "not convolutional models. Leave it out, or choose another --model."
            )
        options: dict[str, Any] = {name: getattr(size, name) for name in ("image_size", "patch_size", "num_channels")}
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
        options |= {"image_mean": mean, "image_std": std}
        remedy = "Name a pretrained ViT, DeiT or DINOv2 checkpoint; a trained MLCAK model is named with --model."
        with loading(arguments.backbone, "backbone", remedy):
            return MLCAKForCXRClassification.from_backbone(arguments.backbone, **options, **labels), processor
    architecture = ("backbone_config", "attention_levels", "patch_embedding", "trunk_widths")
    config = MLCAKConfig(**{name: getattr(size, name) for name in architecture}, **labels)
    if Path(folder).is_dir() and not weight_files(folder):
        return MLCAKForCXRClassification(config), processor
    model = load_model(folder, config=config, ignore_mismatched_sizes=True)
    _fit_head(model, model.classifier, size.global_labels, config.global_labels)
    _fit_head(model, model.local_classifier, list(size.local_labels), list(config.local_labels))
    return model, processor


def _fit_head(
    model: MLCAKForCXRClassification, head: nn.Linear | None, trained: Sequence[str], wanted: Sequence[str]
) -> None:
    """Reorder a trained head for the wanted labels, or initialize it again when they differ."""
    if head is None or list(trained) == list(wanted):
        return
    if sorted(trained) == sorted(wanted):
        order = [list(trained).index(name) for name in wanted]
        head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
        return
    logger.warning(f"A head trained for {list(trained)} is initialized again for {list(wanted)}.")
    # A new layer, because transformers does not initialize parameters that it has loaded.
    fresh = nn.Linear(head.in_features, head.out_features)
    model._init_weights(fresh)  # type: ignore[no-untyped-call]
    head.load_state_dict(fresh.state_dict())
