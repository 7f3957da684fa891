"""Explanation maps from attention maps, tokens and their gradients: the formulas, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Follow attention through all layers.

    `R_l = (A_l + I) / 2 · R_{l-1}` with `R_0 = I` and `A_l` the mean over the heads: half of every token comes from
    the residual connection.

    Args:
        attentions (`Sequence` of `torch.Tensor` of shape `(B, heads, N, N)`):
            Attention of every layer, from the first to the last.

    Returns:
        `torch.Tensor` of shape `(B, N, N)`: how much of each input token reaches each output token. Rows sum to 1.

    References:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers (ACL 2020), equation 1.
    """
    identity = _identity(attentions)
    flow = identity
    for attention in attentions:
        flow = (attention.mean(dim=1) + identity) / 2 @ flow
    return flow


def gradient_attention(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Follow the attention that raises a label's score through all layers.

    `R_l = R_{l-1} + mean_h(max(∇A_lh ⊙ A_lh, 0)) · R_{l-1}` with `R_0 = I`. The identity is subtracted in the end, so
    that a token does not explain itself.

    Args:
        attentions (`Sequence` of `torch.Tensor` of shape `(B, heads, N, N)`):
            Attention of every layer, from the first to the last.
        gradients (`Sequence` of `torch.Tensor` of the same shapes):
            Gradients of the label's score with respect to them.

    Returns:
        `torch.Tensor` of shape `(B, N, N)`: relevance of each input token to each output token, at least 0.

    References:
        Chefer, Gur and Wolf, Generic Attention-model Explainability (ICCV 2021), equations 5 and 6.
    """
    identity = _identity(attentions)
    relevance = identity
    for attention, gradient in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(dim=1) @ relevance
    return relevance - identity


def grad_cam(tokens: Tensor, gradients: Tensor) -> Tensor:
    """Weight the channels of the patches by their mean gradient.

    `max(sum_k w_k x_pk, 0)` with `w_k = mean_p(∂score / ∂x_pk)` over the patches p.

    Args:
        tokens (`torch.Tensor` of shape `(B, patches, channels)`):
            Patches as they enter the last layer. Behind it, only the class token reaches the heads, so the gradients of
            the patches are 0 there.
        gradients (`torch.Tensor` of the same shape):
            Gradients of the label's score with respect to them.

    Returns:
        `torch.Tensor` of shape `(B, patches)`: at least 0, and 0 everywhere if no patch raises the score.

    References:
        Selvaraju et al., Grad-CAM (ICCV 2017), equations 1 and 2.
    """
    weights = gradients.mean(dim=1, keepdim=True)
    return (weights * tokens).sum(dim=-1).clamp(min=0)


def _identity(attentions: Sequence[Tensor]) -> Tensor:
    return torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
