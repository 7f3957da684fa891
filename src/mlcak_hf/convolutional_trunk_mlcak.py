"""A convolutional trunk that makes the patch tokens of a vision transformer, in place of one filter per patch."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# Residual blocks work on at most this many pixels a side; the first convolution reduces a larger image.
_LARGEST_SIDE = 56
#: Groups of channels that are normalised together; the trunk's widths are multiples of it.
NUM_GROUPS = 8


def trunk_strides(image_size: int, patch_size: int, num_blocks: int) -> tuple[int, list[int]]:
    """
    Strides of the first convolution and of the residual blocks; their product is the patch size.

    The first convolution reduces the image to at most 56 px a side. The remaining factors of 2 go to the last blocks.

    Args:
        image_size (`int`): Side of the image, in pixels.
        patch_size (`int`): Side of a patch, in pixels.
        num_blocks (`int`): Number of residual blocks, at least 1.

    Returns:
        The stride of the first convolution and one stride for each block.

    Raises:
        ValueError: If the strides cannot be made of these numbers.
    """
    first = 1
    while image_size > _LARGEST_SIDE * first:
        first *= 2
    largest = first * 2 ** (num_blocks - 1)
    if not first <= patch_size <= largest or patch_size.bit_count() != 1:
        raise ValueError(
            f"backbone_config.patch_size must be a power of 2 from {first} to {largest} for image_size={image_size} "
            f"and the {num_blocks} blocks of trunk_widths; got {patch_size}. Every further block doubles the largest."
        )
    halvings = (patch_size // first).bit_length() - 1
    return first, [1] * (num_blocks - halvings) + [2] * halvings


class ConvolutionalTrunk(nn.Module):
    """
    A convolution (3x3, or 7x7 at 224 px) and residual blocks of two 3x3 convolutions make one token for each patch.

    Each image is normalised by itself (GroupNorm after convolutions with standardised weights), never over a batch:
    accumulated micro-batches and several processes give the gradients of one large batch.

    Args:
        image_size, patch_size (`int`): Sides of the image and of a patch, in pixels; see [`trunk_strides`].
        num_channels (`int`): Channels of the image.
        hidden_size (`int`): Width of a token.
        widths (`Sequence[int]`): Channels of the residual blocks, multiples of 8.

    References:
        Xiao et al., Early Convolutions Help Transformers See Better (NeurIPS 2021).
    """

    def __init__(
        self, image_size: int, patch_size: int, num_channels: int, hidden_size: int, widths: Sequence[int]
    ) -> None:
        super().__init__()
        first, strides = trunk_strides(image_size, patch_size, len(widths))
        # Neighbouring filters overlap, also at a stride of 4: a 3x3 filter would skip pixels there.
        self.stem = _ConvNorm(num_channels, widths[0], max(3, 2 * first - 1), first)
        self.blocks = nn.Sequential(*map(_ResidualBlock, [widths[0], *widths[:-1]], widths, strides))
        self.to_tokens = nn.Conv2d(widths[-1], hidden_size, 1)

    @property
    def weight(self) -> torch.Tensor:
        """A weight that the backbones read to find the type of their input."""
        return self.to_tokens.weight

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Make the tokens of a batch.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, num_channels, image_size, image_size)`): Images.

        Returns:
            `torch.Tensor` of shape `(B, hidden_size, image_size / patch_size, image_size / patch_size)`.
        """
        tokens: torch.Tensor = self.to_tokens(self.blocks(F.relu(self.stem(pixel_values))))
        return tokens


class _StandardisedConv(nn.Conv2d):
    """A convolution with filters of mean 0 and variance `1 / inputs` (Qiao et al., arXiv 1903.10520)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (deviation * self.weight[0].numel() ** 0.5 + 1e-5)
        return F.conv2d(inputs, weight, self.bias, self.stride, self.padding)


class _ConvNorm(nn.Sequential):
    # A layer named "norm" has no weight decay in the Trainer.
    def __init__(self, inputs: int, outputs: int, side: int, stride: int) -> None:
        conv = _StandardisedConv(inputs, outputs, side, stride, padding=side // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.GroupNorm(NUM_GROUPS, outputs)))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _ConvNorm(inputs, outputs, 3, stride)
        self.second = _ConvNorm(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _ConvNorm(inputs, outputs, 1, stride)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(inputs))) + self.shortcut(inputs))


__all__ = ["NUM_GROUPS", "ConvolutionalTrunk", "trunk_strides"]
