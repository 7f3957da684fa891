"""Attention maps, averaged over heads, without switching a model to eager attention."""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Name under which transformers knows this attention: `model.set_attn_implementation("mlcak")`.
ATTENTION_IMPLEMENTATION = "mlcak"


def mlcak_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Scaled dot product attention that also returns its map, averaged over heads, where it is wanted.

    It keeps no state: whether to return a map follows from the argument of this call and from the fixed mark on
    `module`, so that the recomputation of gradient checkpointing and other threads see the same.

    Args:
        module (`nn.Module`): The attention layer; its `is_mlcak_level` marks a chosen level.
        query, key, value (`torch.Tensor` of shape `(B, heads, N, head_dim)`): Projected tokens.
        attention_mask (`torch.Tensor`, *optional*): Additive or boolean mask that broadcasts to `(B, heads, N, N)`.
        scaling (`float`, *optional*): Factor on the scores; `head_dim ** -0.5` if not given.
        output_attentions (`bool`): Whether this forward pass wants maps.

    Returns:
        The output of shape `(B, N, heads, head_dim)`, and `softmax(q k^T * scaling).mean(heads)` of shape `(B, N, N)`
        in float32, before dropout, or `None`.
    """
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if not output_attentions or not getattr(module, "is_mlcak_level", False):
        return output, None
    scores = torch.matmul(query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    return output, scores.softmax(dim=-1, dtype=torch.float32).mean(dim=1)


AttentionInterface.register(ATTENTION_IMPLEMENTATION, mlcak_attention_forward)
AttentionMaskInterface.register(ATTENTION_IMPLEMENTATION, sdpa_mask)


__all__ = ["ATTENTION_IMPLEMENTATION", "mlcak_attention_forward"]
