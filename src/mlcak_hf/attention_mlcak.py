"""Attention maps, averaged over heads, without switching a model to eager attention."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# Entries of attention maps that a CPU computes at a time: they stay in its cache, which is more than twice as fast.
_CACHED_ENTRIES = 1 << 20
# The same for a GPU: 64 MB in float32, so that the maps of all heads of a large batch never exist at once.
_GPU_ENTRIES = 1 << 24

#: Name under which transformers knows this attention: `model.set_attn_implementation("mlcak")`.
ATTENTION_IMPLEMENTATION = "mlcak"


def mlcak_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """
    Scaled dot product attention that also returns its map, averaged over heads, on request.

    It keeps no state, so gradient checkpointing and other threads get the same result. A chosen level computes the maps
    of its heads once, for output and mean, and does not keep them: the backward pass computes them again.

    Args:
        module (`nn.Module`): The attention layer; its `is_mlcak_level` marks a chosen level.
        query, key, value (`torch.Tensor` of shape `(B, heads, N, head_dim)`): Projected tokens.
        attention_mask (`torch.Tensor`, *optional*): Additive or boolean mask that broadcasts to `(B, heads, N, N)`.
        scaling (`float`, *optional*): Factor on the scores; `head_dim ** -0.5` if not given.
        output_attentions (`bool`): Whether to return the map of a chosen level.

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
    # Dropout must not be drawn twice.
    if dropout == 0.0 and not torch.compiler.is_compiling():
        attend: Any = _HeadMeanAttention.apply if trains else _attend
        output, mean = attend(query, key, value, attention_mask, scaling)
    elif dropout == 0.0:
        # The compiler computes all images at once. It is told to compute the maps again in the backward pass.
        inputs = (query, key, value, attention_mask, scaling)
        if trains and torch.compiler.is_dynamo_compiling():
            recomputed: Any = checkpoint
            output, mean = recomputed(_attend_whole, *inputs, use_reentrant=False)
        else:
            output, mean = _attend_whole(*inputs)
    else:
        maps = _maps_of_heads(query, key, attention_mask, scaling)
        output, mean = torch.matmul(F.dropout(maps, dropout).to(value.dtype), value), maps.mean(dim=1)
    return output.transpose(1, 2).contiguous(), mean


def _maps_of_heads(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32)


def _attend_whole(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    maps = _maps_of_heads(query, key, mask, scaling)
    return torch.matmul(maps.to(value.dtype), value), maps.mean(dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """The output `(B, heads, N, head_dim)` and the mean map `(B, N, N)`, a few images at a time."""
    outputs, means = [], []
    for part, own_mask in _few_images(query, key, mask):
        output, mean = _attend_whole(query[part], key[part], value[part], own_mask, scaling)
        outputs.append(output)
        means.append(mean)
    return _joined(outputs), _joined(means)


def _few_images(query: Tensor, key: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Tensor | None]]:
    """Parts of a batch, each with its part of the mask."""
    batch, heads, tokens = query.shape[:3]
    entries = _CACHED_ENTRIES if query.device.type == "cpu" else _GPU_ENTRIES
    few = max(1, entries // (heads * tokens * key.shape[2]))
    for start in range(0, batch, few):
        part = slice(start, start + few)
        yield part, mask if mask is None or mask.ndim < 4 or mask.shape[0] != batch else mask[part]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _HeadMeanAttention(torch.autograd.Function):
    """Attention and the mean of its maps over heads; only query, key and value outlive the forward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        query, key, value, mask, ctx.scaling = inputs
        ctx.save_for_backward(query, key, value, mask)
        # A part that no loss uses then has no gradient instead of zeros.
        ctx.set_materialize_grads(False)
        return _attend(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_mean: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, all_masks = ctx.saved_tensors
        gradients: tuple[list[Tensor], ...] = ([], [], [])
        for part, mask in _few_images(query, key, all_masks):
            maps = _maps_of_heads(query[part], key[part], mask, ctx.scaling)
            if grad_output is None:
                grad_maps = torch.zeros_like(maps)
            else:
                gradients[2].append(torch.matmul(maps.to(grad_output.dtype).transpose(-2, -1), grad_output[part]))
                grad_maps = torch.matmul(grad_output[part], value[part].transpose(-2, -1)).float()
            if grad_mean is not None:
                grad_maps += (grad_mean[part] / query.shape[1]).unsqueeze(1)
            # Gradient of a softmax: maps * (grad - sum(grad * maps)).
            grad_maps -= (grad_maps * maps).sum(dim=-1, keepdim=True)
            grad_scores = grad_maps.mul_(maps).mul_(ctx.scaling).to(query.dtype)
            gradients[0].append(torch.matmul(grad_scores, key[part]))
            gradients[1].append(torch.matmul(grad_scores.transpose(-2, -1), query[part]))
        return (*(_joined(parts) if parts else None for parts in gradients), None, None)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """`sdpa_mask`, but none where nothing is masked: in an export, transformers would mask nothing in every layer."""
    if kwargs.get("attention_mask") is None and kwargs.get("allow_is_bidirectional_skip"):
        return None
    masked: Tensor | None = sdpa_mask(*args, **kwargs)
    return masked


AttentionInterface.register(ATTENTION_IMPLEMENTATION, mlcak_attention_forward)
AttentionMaskInterface.register(ATTENTION_IMPLEMENTATION, _mask)
