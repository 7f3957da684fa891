"""A model and images -> explanation maps over the patches, by any of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..configuration_mlcak import MLCAKConfig
from ..errors import MLCAKError
from ..image_geometry_mlcak import check_choice
from ..modeling_mlcak import MLCAKForCXRClassification
from ..probabilities import MULTI_LABEL
from .choices import METHODS, OF_A_LABEL
from .class_token import class_token_attention
from .methods import attention_rollout, grad_cam, gradient_attention

Maps = NDArray[np.float64]


def log_odds(logits: Tensor, local_logits: Tensor | None, problem_type: str) -> Tensor:
    """Compute the log-odds of every label, the score whose gradient explains it.

    Args:
        logits (`torch.Tensor` of shape `(B, num_labels)`):
            Global logits.
        local_logits (`torch.Tensor` of shape `(B, num_local_labels)`, *optional*):
            Logits of the findings.
        problem_type (`str`):
            Of the global task. With one label per image, `l_k - log(sum_{j != k} exp(l_j))`.

    Returns:
        `torch.Tensor` of shape `(B, num_local_labels + num_labels)`: in the order of [`label_names`].
    """
    if problem_type != MULTI_LABEL:
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        others = logits.unsqueeze(-2).masked_fill(own, -torch.inf).logsumexp(dim=-1)
        logits = logits - others
    return logits if local_logits is None else torch.cat([local_logits, logits], dim=-1)


def explain(
    model: MLCAKForCXRClassification,
    pixel_values: Tensor,
    labels: Sequence[int] | Tensor,
    methods: Sequence[str] = tuple(METHODS),
) -> dict[str, Maps]:
    """Explain one label of each image.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The model, in evaluation mode.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            From the model's processor.
        labels (`Sequence[int]` of length `B`):
            The label of each image that is explained, as [`label_index`] numbers them.
        methods (`Sequence[str]`, *optional*):
            Names in [`METHODS`]. One pass serves them all.

    Returns:
        `dict[str, np.ndarray]`: For each method, maps of shape `(B, rows, columns)`, at least 0. Only the proportions
        within a map have a meaning. With `"attention"`, they are the class token's row of the model's `mlcak`.

    Raises:
        [`MLCAKError`]: When the model is in training mode, or a map is not finite.

    Example:

    ```python
    >>> import torch
    >>> from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification
    >>> from mlcak_hf.explanation.choices import label_index
    >>> from mlcak_hf.explanation.explain import explain

    >>> model = MLCAKForCXRClassification(MLCAKConfig()).eval()
    >>> label = label_index(model.config, "Pneumothorax")
    >>> explain(model, torch.zeros(2, 1, 28, 28), [label, label])["gradient"].shape
    (2, 7, 7)
    ```
    """
    for method in methods:
        check_choice("The explanation method", method, tuple(METHODS), MLCAKError)
    if model.training:
        raise MLCAKError("The model must be in evaluation mode, without dropout. Call model.eval() first.")
    config: Any = model.config
    if not config.has_attention:
        raise MLCAKError("The model must have attention to be explained; got a CNN. Choose another model.")
    with torch.enable_grad(), _maps_of_all_heads(config):
        # The pixels start the graph, so that frozen weights do not matter.
        encoded = model.backbone(
            pixel_values.detach().requires_grad_(), output_attentions=True, output_hidden_states=True, return_dict=True
        )
        class_token = encoded.last_hidden_state[:, 0]
        local_logits = None if model.local_classifier is None else model.local_classifier(class_token)
        scores = log_odds(model.classifier(class_token), local_logits, str(config.problem_type))
        chosen = torch.as_tensor(labels, device=scores.device, dtype=torch.long).reshape(-1, 1)
        # Images do not depend on each other, so the gradient of the sum holds the gradient of each.
        score = scores.gather(1, chosen).sum()
        attentions, tokens = list(encoded.attentions), encoded.hidden_states[-2]
        gradients: Sequence[Tensor] = ()
        if set(methods) & set(OF_A_LABEL):
            gradients = torch.autograd.grad(score, [*attentions, tokens])
    with torch.no_grad():
        return {
            method: _over_patches(_map(method, attentions, tokens, gradients, config), method, config, model.grid_size)
            for method in methods
        }


def _map(
    method: str, attentions: list[Tensor], tokens: Tensor, gradients: Sequence[Tensor], config: MLCAKConfig
) -> Tensor:
    """The class token's row over all tokens, `(B, 1, N)`."""
    if method == "attention":
        levels = [attentions[level][:, :, :1].mean(dim=1) for level in config.resolved_attention_levels]
        return torch.stack(levels).mean(dim=0)
    if method == "rollout":
        return attention_rollout(attentions)[:, :1]
    if method == "gradient":
        return gradient_attention(attentions, gradients[:-1])[:, :1]
    prefix = config.num_prefix_tokens
    patches = grad_cam(tokens[:, prefix:], gradients[-1][:, prefix:])
    return torch.nn.functional.pad(patches, (prefix, 0)).unsqueeze(1)


def _over_patches(row: Tensor, method: str, config: MLCAKConfig, grid_size: tuple[int, int]) -> Maps:
    maps = class_token_attention(row.float().cpu().numpy(), config.num_prefix_tokens, grid_size)
    if not np.isfinite(maps).all():
        raise MLCAKError(f"Maps of the method {method!r} must be finite; got NaN or infinity. The model has diverged.")
    return maps


@contextmanager
def _maps_of_all_heads(config: Any) -> Iterator[None]:
    """Let the backbone return the attention of every head and layer, for as long as the block lasts."""
    backbone, usual = config.backbone_config, config.backbone_config._attn_implementation
    backbone._attn_implementation = "eager"
    try:
        yield
    finally:
        backbone._attn_implementation = usual
