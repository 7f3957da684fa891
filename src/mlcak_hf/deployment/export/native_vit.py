"""Export to a `ViTForImageClassification`, which plain transformers loads without our code.

The stock processor resizes every image to S x S pixels, S = k * image_size. Each filter of the patch embedding is
enlarged k times and divided by k^2, so that the convolution takes the area average that our processor takes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from ...configuration_mlcak import MLCAKConfig
from ...errors import DeploymentError
from ...image_processing_mlcak import MLCAKImageProcessor
from ...modeling_mlcak import MLCAKForCXRClassification
from ...pretrained import Source, load_config, load_model, load_processor
from ...probabilities import MULTI_LABEL, SINGLE_LABEL, probabilities
from ...unit_range_mlcak import to_unit_range
from .deviation import Classifier, Deviation, check_deviation, draw_phantoms, grey_image, measured_deviations
from .native_card import EXAMPLE_IMAGE, native_card
from .new_folder import new_folder
from .onnx_check import check_difference, measured_difference
from .onnx_model import check_packages, traced

#: Side of the image that an exported model takes, unless its own side does not divide it.
USUAL_SIDE = 224
#: Largest difference of a probability where the stock processor need not resize.
LIMIT = 1e-5
_BATCH = 8


@dataclass(frozen=True)
class NativeViT:
    """What was exported.

    Args:
        labels (`list[str]`):
            Labels, in the order of the logits.
        deviations (`tuple` of [`Deviation`]):
            Difference from the original model, by image size.
    """

    labels: list[str]
    deviations: tuple[Deviation, ...]


def export_vit(
    source: Source, output: str | Path, head: str = "both", name: str | None = None, javascript: bool = False
) -> NativeViT:
    """Write a repository with a stock ViT that gives the same probabilities as an MLCAK model.

    Args:
        source (`str` or `Path`):
            Folder, Hub id or name of a shipped checkpoint.
        output (`str` or `Path`):
            New or empty folder.
        head (`str`, *optional*, defaults to `"both"`):
            `"both"` for global labels and findings in one multi-label head, or `"global"`.
        name (`str`, *optional*):
            Name in the card, such as its Hub id. By default that of the folder.
        javascript (`bool`, *optional*, defaults to `False`):
            Whether to write `onnx/model.onnx` too, which transformers.js reads.

    Returns:
        [`NativeViT`]

    Raises:
        [`DeploymentError`]: When a stock ViT cannot express the model or its processor, or the written model differs
            by more than 1e-5 where no image is resized.
    """
    if javascript:
        check_packages()
    config = load_config(source, error=DeploymentError)
    processor = load_processor(source, config, error=DeploymentError)
    check_expressible(config, processor, head)
    model = load_model(source, error=DeploymentError, dtype=torch.float32)
    with new_folder(output) as folder:
        native: Any = native_model(model, processor, head)
        native.save_pretrained(folder)
        for weights in folder.glob("*.safetensors"):  # written with mode 0600, config.json by the umask
            weights.chmod((folder / "config.json").stat().st_mode & 0o777)
        side = int(native.config.image_size)
        stock_processor(processor, side).save_pretrained(folder)
        image_processors: Any = AutoImageProcessor
        stock = image_processors.from_pretrained(folder)
        loaded: Any = AutoModelForImageClassification.from_pretrained(folder)
        deviations = measured_deviations(_original(model, processor, head), _native(loaded, stock), side)
        check_deviation(deviations[0], LIMIT)
        if javascript:
            _write_onnx(native, folder / "onnx" / "model.onnx")
        labels = [native.config.id2label[index] for index in range(native.config.num_labels)]
        problem_type = str(native.config.problem_type)
        grey_image(draw_phantoms(1)[0], side, side).save(folder / EXAMPLE_IMAGE)
        called = name or Path(output).resolve().name
        card = native_card(source, called, labels, problem_type, deviations, stock.backend)
        card.save(folder / "README.md")
    return NativeViT(labels, deviations)


class _Logits(torch.nn.Module):
    def __init__(self, native: Any) -> None:
        super().__init__()
        self.native = native

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        return (self.native(pixel_values=pixel_values).logits,)


def _write_onnx(native: Any, file: Path) -> None:
    """Write the graph `pixel_values` -> `logits`, with the name that transformers.js looks for, and check it."""
    side, module = native.config.image_size, _Logits(native)
    graph = traced(module, (3, side, side), ["logits"])
    file.parent.mkdir()
    file.write_bytes(graph.SerializeToString())
    images = np.random.default_rng(0).normal(size=(_BATCH, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images))[0].numpy()
    check_difference(measured_difference(file, {"logits": expected}, images, native.config.problem_type), "float32")


def check_expressible(config: MLCAKConfig, processor: MLCAKImageProcessor, head: str = "both") -> None:
    """Check that a stock ViT with its processor can give the same probabilities.

    Args:
        config ([`MLCAKConfig`]):
            The model's config.
        processor ([`MLCAKImageProcessor`]):
            The model's processor.
        head (`str`, *optional*, defaults to `"both"`):
            As in [`export_vit`].

    Raises:
        [`DeploymentError`]: When it cannot.
    """
    family = config.backbone_config.model_type
    if family != "vit" or config.patch_embedding != "linear":
        got = f"a {family}" if family != "vit" else "a convolutional trunk"
        raise DeploymentError(
            f"The model must be a ViT with a linear patch embedding to become a stock ViT; got {got}. Publish it with "
            "its own code (`mlcak push`)."
        )
    for name in ("lowres", "value_range"):
        if (value := getattr(processor, name)) is not None:
            raise DeploymentError(
                f"The processor's {name} must be None for a stock processor, which has no such step; got {value}. "
                "Publish the model with its own code (`mlcak push`)."
            )
    if head != "both" or not config.local_labels:
        return
    if config.problem_type == SINGLE_LABEL and config.num_labels != 2:
        raise DeploymentError(
            f"The model must have two global labels to share one multi-label head with its findings; got "
            f"{config.num_labels}. Export the global head alone (--head global)."
        )
    if repeated := sorted(set(config.global_labels) & set(config.local_labels)):
        raise DeploymentError(
            f"Global labels and findings must have different names in one head; both have {', '.join(repeated)}. "
            "Export the global head alone (--head global)."
        )


@torch.no_grad()
def native_model(
    model: MLCAKForCXRClassification, processor: MLCAKImageProcessor, head: str = "both"
) -> ViTForImageClassification:
    """Make the stock ViT.

    Args:
        model ([`MLCAKForCXRClassification`]):
            A model that [`check_expressible`] accepts.
        processor ([`MLCAKImageProcessor`]):
            Its processor.
        head (`str`, *optional*, defaults to `"both"`):
            As in [`export_vit`].

    Returns:
        `ViTForImageClassification`: float32, in evaluation mode.
    """
    old = model.config
    times = -(-USUAL_SIDE // old.image_size)
    labels, problem_type, weight, bias = _one_head(model, head)
    config = copy.deepcopy(old.backbone_config)
    config.image_size, config.patch_size, config.num_channels = times * old.image_size, times * old.patch_size, 3
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    config.problem_type, config.architectures = problem_type, None
    config._attn_implementation = "sdpa"
    native = ViTForImageClassification(config)
    state = {f"vit.{name}": value for name, value in model.backbone.state_dict().items()}
    patches = "vit.embeddings.patch_embeddings.projection"
    state[f"{patches}.weight"], state[f"{patches}.bias"] = _stock_filters(
        state[f"{patches}.weight"], state[f"{patches}.bias"], processor, times
    )
    native.load_state_dict(state | {"classifier.weight": weight, "classifier.bias": bias})
    native.train(False)
    return native


def stock_processor(processor: MLCAKImageProcessor, side: int) -> ViTImageProcessorPil:
    """Make the stock processor for a native model.

    Args:
        processor ([`MLCAKImageProcessor`]):
            The original model's processor.
        side (`int`):
            Side of the image that the native model takes.
    """
    square = {"height": side, "width": side}
    mean, std = (processor.image_mean[0], processor.image_std[0]) if processor.do_normalize else (0.0, 1.0)
    # A crop larger than the image pads it with zeros, centred.
    size = {"shortest_edge": side, "longest_edge": side} if processor.fit == "pad" else square
    return ViTImageProcessorPil(
        do_convert_rgb=True,
        size=size,
        resample=Image.Resampling.BILINEAR,
        do_center_crop=processor.fit == "pad",
        crop_size=square,
        image_mean=[mean] * 3,
        image_std=[std] * 3,
    )


def _stock_filters(filters: Tensor, bias: Tensor, processor: MLCAKImageProcessor, times: int) -> tuple[Tensor, Tensor]:
    """Filters `(width, 3, k * p, k * p)` for RGB images, normalised with the first channel's mean and deviation."""
    filters, bias = filters.double(), bias.double()
    if processor.do_normalize:
        mean, std = (torch.tensor(values).double() for values in (processor.image_mean, processor.image_std))
        bias = bias + (filters * ((mean[0] - mean) / std).view(1, -1, 1, 1)).sum(dim=(1, 2, 3))
        filters = filters * (std[0] / std).view(1, -1, 1, 1)
    grey = filters.sum(dim=1, keepdim=True)
    # The grey values of pure red, green and blue.
    luma = to_unit_range(np.eye(3, dtype=np.float32)[None], input_data_format="channels_last")[0]
    colour = grey * torch.from_numpy(luma).double().view(1, 3, 1, 1)
    enlarged = colour.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3) / times**2
    return enlarged.float(), bias.float()


def _one_head(model: MLCAKForCXRClassification, head: str) -> tuple[list[str], str, Tensor, Tensor]:
    """Labels, problem type, weight and bias of the native head."""
    config, local = model.config, model.local_classifier
    problem_type = str(config.problem_type)
    weight: Tensor = model.classifier.weight
    bias: Tensor = model.classifier.bias
    if head == "global" or local is None:
        return config.global_labels, problem_type, weight, bias
    if problem_type == SINGLE_LABEL:
        # The softmax of two logits is the sigmoid of their difference.
        weight, bias = weight - weight.flip(0), bias - bias.flip(0)
    labels = [*config.global_labels, *config.local_labels]
    return labels, MULTI_LABEL, torch.cat([weight, local.weight]), torch.cat([bias, local.bias])


def _original(model: MLCAKForCXRClassification, processor: MLCAKImageProcessor, head: str) -> Classifier:
    def classify(images: Sequence[Image.Image]) -> NDArray[np.float64]:
        outputs = _in_batches(model, processor, images)
        found = probabilities(torch.cat([output.logits for output in outputs]), str(model.config.problem_type))
        if head == "global" or model.local_classifier is None:
            return found
        local = probabilities(torch.cat([output.local_logits for output in outputs]))
        return np.concatenate([found, local], axis=1)

    return classify


def _native(model: Any, processor: Any) -> Classifier:
    def classify(images: Sequence[Image.Image]) -> NDArray[np.float64]:
        logits = torch.cat([output.logits for output in _in_batches(model, processor, images)])
        return probabilities(logits, str(model.config.problem_type))

    return classify


@torch.inference_mode()
def _in_batches(model: Any, processor: Any, images: Sequence[Image.Image]) -> list[Any]:
    batches = [list(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return [model(**processor(batch, return_tensors="pt")) for batch in batches]
