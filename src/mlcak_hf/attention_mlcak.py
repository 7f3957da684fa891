"""Attention maps, averaged over heads, without switching a model to eager attention."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# On a CPU, so many entries of the maps of heads are made at a time that they stay in its cache: more than twice as fast
# as through memory. Elsewhere all at once.
_CACHED_ENTRIES = 1 << 20

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
    # A compiler decides by itself what to keep; dropout must not be drawn twice.
    if dropout == 0.0 and not torch.compiler.is_compiling():
        attend: Any = _HeadMeanAttention.apply if trains else _attend
        output, mean = attend(query, key, value, attention_mask, scaling)
    else:
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


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output `(B, heads, N, head_dim)` and the mean map `(B, N, N)`, a few images at a time."""
    outputs, means = [], []
    for part, mask in _few_images(query, key, attention_mask):
        maps = _maps_of_heads(query[part], key[part], mask, scaling)
        outputs.append(torch.matmul(maps.to(value.dtype), value[part]))
        means.append(maps.mean(dim=1))
    return _joined(outputs), _joined(means)


def _few_images(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor | None]]:
    """Parts of a batch that are worked on together, each with its part of the mask."""
    batch, heads, tokens = query.shape[:3]
    on_cpu = query.device.type == "cpu"
    few = max(1, _CACHED_ENTRIES // (heads * tokens * key.shape[2])) if on_cpu else batch
    own_masks = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.shape[0] == batch
    for start in range(0, batch, few):
        part = slice(start, start + few)
        yield part, attention_mask[part] if own_masks and attention_mask is not None else attention_mask


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
        return _attend(query, key, value, attention_mask, scaling)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: torch.Tensor | None, grad_mean: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, attention_mask = ctx.saved_tensors
        gradients: tuple[list[torch.Tensor], ...] = ([], [], [])
        for part, mask in _few_images(query, key, attention_mask):
            maps = _maps_of_heads(query[part], key[part], mask, ctx.scaling)
            if grad_output is None:
                grad_maps = torch.zeros_like(maps)
            else:
                gradients[2].append(torch.matmul(maps.to(grad_output.dtype).transpose(-2, -1), grad_output[part]))
                grad_maps = torch.matmul(grad_output[part], value[part].transpose(-2, -1)).float()
            if grad_mean is not None:
                grad_maps += (grad_mean[part] / query.shape[1]).unsqueeze(1)
            # Of a softmax: maps * (grad - sum(grad * maps)).
            grad_maps -= (grad_maps * maps).sum(dim=-1, keepdim=True)
            grad_scores = grad_maps.mul_(maps).mul_(ctx.scaling).to(query.dtype)
            gradients[0].append(torch.matmul(grad_scores, key[part]))
            gradients[1].append(torch.matmul(grad_scores.transpose(-2, -1), query[part]))
        return (*(_joined(parts) if parts else None for parts in gradients), None, None)


AttentionInterface.register(ATTENTION_IMPLEMENTATION, mlcak_attention_forward)
AttentionMaskInterface.register(ATTENTION_IMPLEMENTATION, sdpa_mask)
