"""Configuration of an MLCAK model: a ViT-family backbone, a global head and a local head."""

import copy
from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, ViTConfig

from .convolutional_trunk_mlcak import NUM_GROUPS, trunk_strides

#: The 22 local findings of VinDr-CXR, in the order of its annotation tables.
VINDR_CXR_FINDINGS: tuple[str, ...] = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)

#: The two global classes, unless a dataset names others.
GLOBAL_CLASS_NAMES: tuple[str, str] = ("Normal", "Abnormal")

#: Supported backbones, with a class token first, and their number of prefix tokens (without registers).
BACKBONE_PREFIX_TOKENS: dict[str, int] = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1}

#: Supported backbones without attention: they classify and teach logits.
CONVOLUTIONAL_BACKBONES: tuple[str, ...] = ("convnext", "regnet", "resnet")

_DEFAULT_SIDE = 224  # of convolutional backbones, which take images of any size


@strict
class MLCAKConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    r"""
    Configuration of an [`MLCAKForCXRClassification`].

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the backbone: `vit`, `deit`, `dinov2` or `dinov2_with_registers`; or a CNN without
            attention: `resnet`, `regnet` or `convnext`, with `image_size` (defaults to 224) beside its own entries.
            A dict must name its `model_type`; what it leaves out takes that type's defaults. It is copied, never
            changed in place. Defaults to a ViT for 28 px, 4 px patches, 1 channel, width 192, 12 layers, 3 heads.
        local_labels (`list[str]`, defaults to the 22 findings of VinDr-CXR):
            Names of the local findings, in the order of `local_logits`. `[]` means no local head (global task only).
        local_loss_weight (`float`, defaults to 1.0):
            Weight (lambda >= 0) of the local loss in `L_classification = CE(MCCT) + lambda * BCE(MLCT)`.
        attention_levels (`list[int]`, *optional*):
            Encoder layers that return their head-averaged attention; negative numbers count from the last layer.
            `None` means all layers.
        patch_embedding (`str`, defaults to `"linear"`):
            What makes the tokens of the patches: `"linear"`, one filter per patch, as in ViT; or `"conv"`, a residual
            convolutional trunk with the same grid of patches, which uses small images better.
        trunk_widths (`list[int]`, defaults to `[32, 64, 128]`):
            Channels of the trunk's residual blocks, multiples of 8; unused with `patch_embedding="linear"`. The patch
            size is a power of 2; at most 4 px with three blocks at 28 or 56 px, 8 px at 112 and 16 px at 224 px.
        id2label (`dict[int, str]`, defaults to `{0: "Normal", 1: "Abnormal"}`):
            Names of the global labels by index 0..n-1 (integers, or strings as in JSON). `num_labels` and `label2id`
            follow it.
        problem_type (`str`, defaults to `"single_label_classification"`):
            What the global head is trained for: `"single_label_classification"` or `"multi_label_classification"`.

    Raises:
        huggingface_hub.errors.StrictDataclassError:
            If a value has the wrong type or is outside its range.

    Example:

    ```python
    >>> from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification

    >>> config = MLCAKConfig(
    ...     backbone_config={"model_type": "vit", "image_size": 56, "patch_size": 4, "num_channels": 1},
    ...     local_labels=["Nodule/Mass", "Pneumothorax"],
    ... )
    >>> model = MLCAKForCXRClassification(config)
    >>> model.config.num_labels, model.config.num_local_labels, model.config.image_size
    (2, 2, 56)
    ```"""

    model_type = "mlcak"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 - a class variable of the base class
    # The Trainer gathers every other output of an evaluation step.
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "mlcak", "global_loss", "local_loss"]  # noqa: RUF012

    backbone_config: Any = None
    local_labels: list[str] | tuple[str, ...] = field(default_factory=lambda: list(VINDR_CXR_FINDINGS))
    local_loss_weight: float | int = 1.0
    attention_levels: list[int] | tuple[int, ...] | None = None
    patch_embedding: Literal["linear", "conv"] = "linear"
    trunk_widths: list[int] | tuple[int, ...] = field(default_factory=lambda: [32, 64, 128])
    problem_type: Literal["single_label_classification", "multi_label_classification"] = "single_label_classification"

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = _build_backbone_config(self.backbone_config)
        self.local_labels = list(self.local_labels)
        self.attention_levels = None if self.attention_levels is None else list(self.attention_levels)
        self.trunk_widths = list(self.trunk_widths)
        if self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = dict(enumerate(GLOBAL_CLASS_NAMES))
        elif self.id2label is None:
            self.num_labels = kwargs["num_labels"]
        if self.num_labels == 1:
            self.validate_global_labels()  # The base class would advise a regression.
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def __setattr__(self, key: str, value: Any) -> None:
        # Here and not in __post_init__, because `from_pretrained(folder, id2label=...)` sets the attribute afterwards.
        if key == "id2label" and value is not None:
            value = {int(key) if str(key).isdecimal() else key: name for key, name in value.items()}
            super().__setattr__("label2id", {name: i for i, name in value.items()})  # type: ignore[no-untyped-call]
        super().__setattr__(key, value)  # type: ignore[no-untyped-call]

    @property
    def global_labels(self) -> list[str]:
        """Names of the global labels, in the order of `logits`."""
        return [str(name) for _, name in sorted((self.id2label or {}).items())]

    @property
    def num_local_labels(self) -> int:
        """Number of local findings; 0 without a local head."""
        return len(self.local_labels)

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return _square_side(self.backbone_config.image_size, "backbone_config.image_size")

    @property
    def patch_size(self) -> int:
        """Side of a square patch, in pixels."""
        return _square_side(self.backbone_config.patch_size, "backbone_config.patch_size")

    @property
    def num_channels(self) -> int:
        """Number of input channels."""
        return int(self.backbone_config.num_channels)

    @property
    def has_attention(self) -> bool:
        """Whether the backbone has attention: `False` for a CNN, which has no tokens either."""
        return self.backbone_config.model_type in BACKBONE_PREFIX_TOKENS

    @property
    def feature_width(self) -> int:
        """Number of features that the heads see."""
        return int(self.backbone_config.hidden_size if self.has_attention else self.backbone_config.hidden_sizes[-1])

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: the class token, DeiT's distillation token, registers."""
        registers = getattr(self.backbone_config, "num_register_tokens", 0)
        return BACKBONE_PREFIX_TOKENS[self.backbone_config.model_type] + registers

    @property
    def resolved_attention_levels(self) -> list[int]:
        """The chosen encoder layers as ascending indices 0..num_hidden_layers-1; none without attention."""
        if not self.has_attention:
            return []
        num_layers = self.backbone_config.num_hidden_layers
        levels = range(num_layers) if self.attention_levels is None else self.attention_levels
        return sorted(level % num_layers for level in levels)

    def validate_output_attentions(self) -> None:
        """Check that attention is not asked for by the configuration."""
        if self.output_attentions:
            raise ValueError("output_attentions cannot be set in the configuration: pass it to each call of the model.")

    def validate_backbone(self) -> None:
        """Check that the image is a square made of whole square patches."""
        if not self.has_attention:
            if self.image_size < 1:
                raise ValueError(f"backbone_config.image_size must be at least 1; got {self.image_size}.")
            return
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"backbone_config.image_size must be a multiple of backbone_config.patch_size, so that every pixel "
                f"is in a patch; got image_size={self.image_size} and patch_size={self.patch_size}."
            )

    def validate_patch_embedding(self) -> None:
        """Check that a convolutional trunk can make the grid of patches."""
        if self.patch_embedding != "conv":
            return
        if not self.has_attention:
            raise ValueError("patch_embedding must be 'linear' for a convolutional backbone; got 'conv'. Leave it out.")
        if not self.trunk_widths or any(width < 1 or width % NUM_GROUPS for width in self.trunk_widths):
            raise ValueError(
                f"trunk_widths must be one or more positive multiples of {NUM_GROUPS}; got {self.trunk_widths}."
            )
        trunk_strides(self.image_size, self.patch_size, len(self.trunk_widths))

    def validate_local_labels(self) -> None:
        """Check that the findings' names are non-empty and unique."""
        names = [name.strip() for name in self.local_labels]
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"local_labels must be unique, non-empty names; got {self.local_labels}.")

    def validate_local_loss_weight(self) -> None:
        """Check that the weight of the local loss is a finite number >= 0."""
        if not 0 <= self.local_loss_weight < float("inf"):
            raise ValueError(f"local_loss_weight must be a finite number >= 0; got {self.local_loss_weight}.")

    def validate_attention_levels(self) -> None:
        """Check that the levels exist in the backbone and that none is named twice."""
        if self.attention_levels is None:
            return
        if not self.has_attention:
            raise ValueError(
                f"attention_levels must be None for a convolutional backbone, because it has no attention; got "
                f"{self.attention_levels}."
            )
        num_layers = self.backbone_config.num_hidden_layers
        levels = {level % num_layers for level in self.attention_levels if -num_layers <= level < num_layers}
        if not levels or len(levels) < len(self.attention_levels):
            raise ValueError(
                f"attention_levels must name at least one of the backbone's {num_layers} layers, from {-num_layers} to "
                f"{num_layers - 1}, each at most once (None means all); got {self.attention_levels}."
            )

    def validate_global_labels(self) -> None:
        """Check that the global labels are numbered 0..n-1 and have unique names."""
        labels = self.id2label or {}
        if not labels or set(labels) != set(range(len(labels))) or len(set(labels.values())) < len(labels):
            raise ValueError(f"id2label must have the keys 0, 1, ..., n-1 and unique names; got {self.id2label}.")
        if len(labels) == 1 and self.problem_type == "single_label_classification":
            raise ValueError(
                'num_labels must be at least 2 with problem_type="single_label_classification"; got 1. Use '
                'num_labels=2, or problem_type="multi_label_classification" for one yes-or-no label.'
            )


def _build_backbone_config(backbone_config: Any) -> Any:
    """Turn `None`, a dict with `model_type` or a config object into a config object of its own."""
    if backbone_config is None:
        return ViTConfig(
            image_size=28, patch_size=4, num_channels=1, hidden_size=192, num_attention_heads=3, intermediate_size=768
        )
    given = dict(backbone_config) if isinstance(backbone_config, dict) else {}
    model_type = given.pop("model_type", None) or getattr(backbone_config, "model_type", None)
    known = sorted([*BACKBONE_PREFIX_TOKENS, *CONVOLUTIONAL_BACKBONES])
    if model_type not in known:
        raise ValueError(
            f"backbone_config must be a configuration, or a dict with `model_type`, of type {known}; got "
            f"{type(backbone_config).__name__} with model_type={model_type!r}."
        )
    config = (
        CONFIG_MAPPING[model_type](**given) if isinstance(backbone_config, dict) else copy.deepcopy(backbone_config)
    )
    if not hasattr(config, "image_size"):
        config.image_size = _DEFAULT_SIDE
    return config


def _square_side(size: Any, name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"{name} must be one number or two equal ones (a square); got {size}.")
    return int(sides.pop())
