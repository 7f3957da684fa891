"""Attention maps, averaged over heads, without switching a model to eager attention."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
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
    `module`, so that the recomputation of gradient checkpointing and other threads see the same. A chosen level makes
    the maps of its heads once, for output and mean, and keeps none of them: the backward pass makes them again.

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
    if not output_attentions or not getattr(module, "is_mlcak_level", False):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    dropout = kwargs.get("dropout", 0.0)
    trains = torch.is_grad_enabled() and query.requires_grad
    if trains and dropout == 0.0 and not torch.compiler.is_compiling():
        output, mean = _HeadMeanAttention.apply(query, key, value, attention_mask, scaling)  # type: ignore[no-untyped-call]
    else:
        # A compiler decides by itself what to keep; dropout must not be drawn twice.
        maps = _maps_of_heads(query, key, attention_mask, scaling)
        output, mean = torch.matmul(F.dropout(maps, dropout).to(value.dtype), value), maps.mean(dim=1)
    return output.transpose(1, 2).contiguous(), mean


def _maps_of_heads(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    return scores.softmax(dim=-1, dtype=torch.float32)


class _HeadMeanAttention(torch.autograd.Function):
    """Attention and the mean of its maps over heads; only query, key and value outlive the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(query, key, value, attention_mask)
        ctx.scaling = scaling
        # A part that no loss uses then has no gradient instead of zeros.
        ctx.set_materialize_grads(False)
        maps = _maps_of_heads(query, key, attention_mask, scaling)
        return torch.matmul(maps.to(value.dtype), value), maps.mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: torch.Tensor | None, grad_mean: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, attention_mask = ctx.saved_tensors
        maps = _maps_of_heads(query, key, attention_mask, ctx.scaling)
        if grad_output is None:
            grad_value, grad_maps = None, torch.zeros_like(maps)
        else:
            grad_value = torch.matmul(maps.to(grad_output.dtype).transpose(-2, -1), grad_output)
            grad_maps = torch.matmul(grad_output, value.transpose(-2, -1)).float()
        if grad_mean is not None:
            grad_maps += (grad_mean / query.shape[1]).unsqueeze(1)
        # Of a softmax: maps * (grad - sum(grad * maps)).
        grad_maps -= (grad_maps * maps).sum(dim=-1, keepdim=True)
        grad_scores = grad_maps.mul_(maps).mul_(ctx.scaling).to(query.dtype)
        grad_query = torch.matmul(grad_scores, key)
        grad_key = torch.matmul(grad_scores.transpose(-2, -1), query)
        return grad_query, grad_key, grad_value, None, None


AttentionInterface.register(ATTENTION_IMPLEMENTATION, mlcak_attention_forward)
AttentionMaskInterface.register(ATTENTION_IMPLEMENTATION, sdpa_mask)


__all__ = ["ATTENTION_IMPLEMENTATION", "mlcak_attention_forward"]
