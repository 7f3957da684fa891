"""BatchNorm in a model that is trained: what it makes inexact, and the same statistics in every process."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


def warn_of_batch_norm(model: nn.Module, args: Any) -> None:
    """Warn if the statistics of BatchNorm depend on how the images of a step are divided.

    Args:
        model (`torch.nn.Module`):
            The model that is trained.
        args ([`MLCAKTrainingArguments`]):
            Accumulation and processes.
    """
    if (args.gradient_accumulation_steps > 1 or args.world_size > 1) and _has_batch_norm(model):
        logger.warning(
            "This model has BatchNorm, so accumulation and several processes are not exact: its statistics are those "
            f"of {args.train_batch_size} images, not of the whole step. Resuming is exact."
        )


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give every process the statistics of the first one, whose model is saved; each has seen other images."""
    if _has_batch_norm(model):
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
