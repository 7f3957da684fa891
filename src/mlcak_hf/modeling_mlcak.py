"""A ViT or CNN backbone with a global and a local head; a ViT returns its attention without eager attention."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from .attention_mlcak import ATTENTION_IMPLEMENTATION
from .backbone_surgery_mlcak import adapt_backbone
from .classification_loss_mlcak import global_classification_loss, local_classification_loss
from .configuration_mlcak import MLCAKConfig
from .convolutional_trunk_mlcak import ConvolutionalTrunk

_ALIGNMENT_BYTES = 64  # where PyTorch's own allocator starts a tensor on a CPU


@dataclass
class MLCAKOutput(ModelOutput):
    """
    Output of [`MLCAKForCXRClassification`].

    Args:
        loss (`torch.FloatTensor`, *optional*, scalar): `global_loss + local_loss_weight * local_loss`, of those given.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): Global task (MCCT).
        local_logits (`torch.FloatTensor` of shape `(B, num_local_labels)`): Local findings (MLCT); `None` without them.
        attentions (`tuple` of `torch.FloatTensor` of shape `(B, N, N)`, *optional*): Head-averaged attention of each
            chosen level, from shallow to deep. A CNN has none.
        mlcak (`torch.FloatTensor` of shape `(B, N, N)`, *optional*): Their mean, `(1/N) * sum_i H_i`.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(B, N, hidden_size)`, *optional*): Input of the first
            layer and output of every layer.
        global_loss, local_loss (`torch.FloatTensor`, *optional*, scalars): The parts of `loss`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    local_logits: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlcak: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    global_loss: Tensor | None = None
    local_loss: Tensor | None = None


class MLCAKModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """
    The backbone of an [`MLCAKForCXRClassification`] without its heads, for `AutoModel` and `image-feature-extraction`.

    Args:
        config ([`MLCAKConfig`]): Backbone, levels.
    """

    config_class = MLCAKConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - the base class declares it so
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config.validate()
        # Eager attention would keep the maps of all heads and layers. A CNN has no attention.
        config.backbone_config._attn_implementation = ATTENTION_IMPLEMENTATION if config.has_attention else "eager"
        backbone_class: Any = MODEL_MAPPING[type(config.backbone_config)]
        self.backbone = backbone_class(config.backbone_config)
        # Parameters that this model never uses break DistributedDataParallel.
        for owner, name in ((self.backbone, "pooler"), (getattr(self.backbone, "embeddings", None), "mask_token")):
            if config.has_attention and getattr(owner, name, None) is not None:
                setattr(owner, name, None)
        if config.patch_embedding == "conv":
            self.backbone.embeddings.patch_embeddings.projection = ConvolutionalTrunk(
                config.image_size,
                config.patch_size,
                config.num_channels,
                config.backbone_config.hidden_size,
                config.trunk_widths,
            )
        self._add_heads()
        self.set_attention_levels(config.attention_levels)
        self.post_init()  # type: ignore[no-untyped-call]

    def _add_heads(self) -> None:
        """Add what else has weights, before they are initialised."""

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save with this model's own weight names and ordinary file permissions."""
        # The legacy names that transformers writes for ViT and DINOv2 are silently dropped when the Trainer resumes.
        kwargs.setdefault("save_original_format", False)
        if self._auto_class is not None:
            auto_map = getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = {"AutoModel": "modeling_mlcak.MLCAKModel"} | auto_map
        saved = super().save_pretrained(*args, **kwargs)
        folder = Path(kwargs.get("save_directory", args[0] if args else ""))
        for weights in folder.glob("*.safetensors"):  # written with mode 0600, config.json by the umask
            weights.chmod((folder / "config.json").stat().st_mode & 0o777)
        return saved

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load, and align the weights in memory: unaligned ones change the last bit of the logits."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for parameter in model.parameters():
            if parameter.data_ptr() % _ALIGNMENT_BYTES:
                parameter.data = parameter.data.clone()
        return loaded

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches. A CNN has none."""
        side = self.config.image_size // self.config.patch_size
        return side, side

    def set_attention_levels(self, attention_levels: Sequence[int] | None) -> None:
        """
        Choose the encoder layers that return their attention.

        Args:
            attention_levels (`Sequence[int]`, *optional*): As in [`MLCAKConfig`]; `None` means all.
        """
        self.config.attention_levels = None if attention_levels is None else list(attention_levels)
        self.config.validate()
        if not self.config.has_attention:
            return
        layers = [layer for layer in self.backbone.modules() if hasattr(layer, "q_proj") and hasattr(layer, "k_proj")]
        if len(layers) != self.config.backbone_config.num_hidden_layers:
            raise RuntimeError(
                f"Expected {self.config.backbone_config.num_hidden_layers} attention layers with q_proj and k_proj in "
                f"{type(self.backbone).__name__}; found {len(layers)}. Use transformers 5.23."
            )
        for index, layer in enumerate(layers):
            layer.is_mlcak_level = index in self.config.resolved_attention_levels

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """
        Compute features of a batch of radiographs.

        Args:
            pixel_values, output_attentions, output_hidden_states, return_dict: As in [`MLCAKForCXRClassification`].

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state` after the final norm, `pooler_output`: its class token,
            or the mean of a CNN's last map.

        Raises:
            RuntimeError: If the requested attention cannot be captured.
        """
        config = self.config
        expected = (config.num_channels, config.image_size, config.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected or not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floats of shape (batch, {str(expected)[1:]}; got {pixel_values.dtype} of shape "
                f"{tuple(pixel_values.shape)}. Use the image processor saved with the model."
            )
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if output_attentions and not config.has_attention:
            raise ValueError(
                f"output_attentions must be False for a {config.backbone_config.model_type}, because a CNN has no "
                "attention; got True."
            )
        if output_attentions and self.training and torch.is_grad_enabled() and self._checkpoints_reentrantly():
            raise RuntimeError(
                "Reentrant gradient checkpointing cuts attention maps off from the graph: with output_attentions=True "
                'use gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        wanted = {"output_attentions": bool(output_attentions)} if config.has_attention else {}
        outputs = self.backbone(
            pixel_values, output_hidden_states=bool(output_hidden_states), return_dict=True, **wanted
        )
        attentions = outputs.attentions if output_attentions else None
        levels = len(config.resolved_attention_levels)
        if output_attentions and [attention.ndim for attention in attentions or ()] != [3] * levels:
            raise RuntimeError(
                f"Expected the head-averaged attention of {levels} levels, but attention implementation "
                f"{config.backbone_config._attn_implementation!r} returned {len(attentions or ())} maps: call "
                f"model.set_attn_implementation({ATTENTION_IMPLEMENTATION!r})."
            )
        output = BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.last_hidden_state[:, 0] if config.has_attention else outputs.pooler_output.flatten(1),
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=attentions,
        )
        return_dict = config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _checkpoints_reentrantly(self) -> bool:
        layers = [layer for layer in self.backbone.modules() if getattr(layer, "gradient_checkpointing", False)]
        functions = [getattr(layer, "_gradient_checkpointing_func", None) for layer in layers]
        return any(getattr(function, "keywords", {}).get("use_reentrant", True) for function in functions)


class MLCAKForCXRClassification(MLCAKModel):  # type: ignore[no-untyped-call]
    r"""
    A backbone and two linear heads on its final-norm class token, or on a CNN's pooled features: global label (MCCT)
    and local findings (MLCT).

    Args:
        config ([`MLCAKConfig`]): Backbone, labels, levels.

    Example:

    ```python
    >>> import torch
    >>> from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification

    >>> model = MLCAKForCXRClassification(MLCAKConfig()).eval()
    >>> outputs = model(torch.zeros(1, 1, 28, 28), output_attentions=True)
    >>> outputs.logits.shape, outputs.local_logits.shape, outputs.mlcak.shape
    (torch.Size([1, 2]), torch.Size([1, 22]), torch.Size([1, 50, 50]))
    ```"""

    # The loss is a mean over this batch: the Trainer must not take it as divided by the items of the whole step.
    accepts_loss_kwargs = False

    def _add_heads(self) -> None:
        config: Any = self.config
        width, findings = config.feature_width, config.num_local_labels
        self.classifier = nn.Linear(width, config.num_labels)
        self.local_classifier = nn.Linear(width, findings) if findings else None

    @classmethod
    def from_backbone(
        cls,
        path_or_id: str | os.PathLike[str],
        image_size: int,
        patch_size: int,
        num_channels: int = 1,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **config_kwargs: Any,
    ) -> "MLCAKForCXRClassification":
        """
        Turn a pretrained ViT, DeiT or DINOv2 checkpoint into an MLCAK model of any resolution; the heads are new.

        Position embeddings are interpolated, patch filters resized as in FlexiViT, and channels folded exactly: a grey
        image gives the features that the checkpoint gives for the same image in three equal channels.

        Args:
            path_or_id (`str`): Folder or Hub id that `AutoModel` can read. The normalisation it was trained with is
                read from its `preprocessor_config.json`, or assumed from its model type, with a warning.
            image_size, patch_size (`int`): Side of the new input and of its patches, in pixels.
            num_channels (`int`, defaults to 1): 1, or the checkpoint's own number.
            image_mean, image_std (`Sequence[float]`, *optional*): Normalisation of the new model's input: give the same
                to [`MLCAKImageProcessor`]. Default: the processor's own for one channel, else the checkpoint's.
            **config_kwargs: Further fields of [`MLCAKConfig`], e.g. `local_labels`, `attention_levels`.

        Returns:
            `MLCAKForCXRClassification`: In evaluation mode, float32.

        Raises:
            ValueError: If the checkpoint is of another family, sizes, channels or normalisation do not fit, or a
                convolutional trunk is wanted.
        """
        if config_kwargs.get("patch_embedding", "linear") != "linear":
            raise ValueError(
                "A pretrained backbone has patch_embedding 'linear'; got 'conv'. Leave patch_embedding out."
            )
        backbone_config, state_dict = adapt_backbone(
            path_or_id, image_size, patch_size, num_channels, image_mean, image_std
        )
        config_class: Any = cls.config_class
        model = cls(config_class(backbone_config=backbone_config, **config_kwargs))
        model.backbone.load_state_dict({name: state_dict[name] for name in model.backbone.state_dict()})
        return cast("MLCAKForCXRClassification", model.train(False))

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        local_targets: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MLCAKOutput | tuple[Any, ...]:
        """
        Classify a batch of radiographs.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): From [`MLCAKImageProcessor`].
            labels (`torch.Tensor`, *optional*): Global labels; see [`global_classification_loss`].
            local_targets (`torch.Tensor` of shape `(B, num_local_labels)`, *optional*): Findings in [0, 1], -1 missing.
            output_attentions (`bool`, *optional*): Return `attentions` and `mlcak`. Call the model once so before
                `torch.compile`: transformers installs its hooks on the first call.
            output_hidden_states (`bool`, *optional*): Return `hidden_states`.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`MLCAKOutput`]

        Raises:
            ValueError: If an input has the wrong shape.
        """
        encoded: Any = super().forward(pixel_values, output_attentions, output_hidden_states, return_dict=True)
        logits = self.classifier(encoded.pooler_output)
        local_logits = None if self.local_classifier is None else self.local_classifier(encoded.pooler_output)

        global_loss = local_loss = loss = None
        if labels is not None:
            loss = global_loss = global_classification_loss(logits, labels, str(self.config.problem_type))
        if local_targets is not None and local_logits is not None:
            local_loss = local_classification_loss(local_logits, local_targets)
            loss = self.config.local_loss_weight * local_loss + (0.0 if global_loss is None else global_loss)
        elif local_targets is not None and local_targets.numel() > 0:
            raise ValueError(
                f"local_targets must be None for a model without a local head (local_labels=[]); got shape "
                f"{tuple(local_targets.shape)}."
            )
        attentions = encoded.attentions
        # Without a stack of the maps, which would double their memory.
        mlcak = None if attentions is None else sum(attentions[1:], start=attentions[0]) / len(attentions)
        output = MLCAKOutput(
            loss=loss,
            logits=logits,
            local_logits=local_logits,
            attentions=attentions,
            mlcak=mlcak,
            hidden_states=encoded.hidden_states,
            global_loss=global_loss,
            local_loss=local_loss,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()
