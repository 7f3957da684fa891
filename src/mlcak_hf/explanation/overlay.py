"""A map over the patches, such as the class token's attention, mapped back onto the radiograph, and drawn.

A patch covers a square of the reduced image, which was padded or squashed from the original. It is mapped back with
[`map_boxes`], like the boxes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..errors import MLCAKError
from ..image_geometry_mlcak import map_boxes

# The longer side of a heatmap, so that its legend can be read.
SMALLEST_DISPLAY_PX = 512

# In multiples of uniform attention. The scale is the same for every heatmap, so that two of them can be compared.
_FULL_COLOUR, _CLEARLY_UNEVEN = 16.0, 1.5
_TICKS = (1, 2, 4, 8, 16)
_STRONGEST_TINT = 0.65
_COLOURS = "inferno"
_FOOTER = "Not a location of disease. Research use only; not for diagnosis."


def enlarge_for_display(radiograph: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Enlarge a radiograph of shape `(height, width)` smoothly, if its longer side has fewer than 512 pixels."""
    factor = SMALLEST_DISPLAY_PX / max(radiograph.shape)
    if factor <= 1:
        return radiograph
    height, width = (max(1, round(side * factor)) for side in radiograph.shape)
    enlarged = Image.fromarray(radiograph).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32).clip(0.0, 1.0)


def attention_over_radiograph(
    attention: npt.NDArray[np.float32],
    original_size: tuple[int, int],
    model_size_px: int,
    fit: str,
    shown_size: tuple[int, int] | None = None,
) -> npt.NDArray[np.float32]:
    """Map attention over patches onto the original radiograph, blended smoothly between patch centres.

    Args:
        attention (`np.ndarray` of shape `(rows, columns)`):
            Attention per patch.
        original_size (`tuple[int, int]`):
            Height and width of the radiograph, in pixels.
        model_size_px (`int`):
            Side of the square image that the model saw, in pixels.
        fit (`str`):
            How the radiograph was made square, `"pad"` or `"squash"`. Attention on padding is left out.
        shown_size (`tuple[int, int]`, *optional*, defaults to `original_size`):
            Height and width of the result, in pixels.

    Returns:
        `np.ndarray` of shape `shown_size`: the attention at each pixel, in the unit of `attention` (per patch).
    """
    shown_height, shown_width = shown_size or original_size
    rows, columns = attention.shape
    square = np.array([[0.0, 0.0, model_size_px, model_size_px]])
    left, top, right, bottom = map_boxes(square, original_size, (model_size_px, model_size_px), fit, inverse=True)[0]
    # Pixel centres of the shown picture, in pixels of the original.
    y = (np.arange(shown_height) + 0.5) * original_size[0] / shown_height
    x = (np.arange(shown_width) + 0.5) * original_size[1] / shown_width
    down = _blend_weights((y - top) / (bottom - top) * rows, rows)
    across = _blend_weights((x - left) / (right - left) * columns, columns)
    return np.asarray(down @ attention.astype(np.float64) @ across.T, dtype=np.float32)


def _blend_weights(positions: npt.NDArray[np.float64], cells: int) -> npt.NDArray[np.float64]:
    """Weights `(positions, cells)` that blend the two nearest cell centres; constant beyond the outer ones.

    The blend is flat at the centres (smoothstep): linear blending in two directions draws a four-pointed star.
    """
    between = np.clip(positions - 0.5, 0.0, cells - 1.0)
    nearness = np.clip(1.0 - np.abs(between[:, None] - np.arange(cells)), 0.0, 1.0)
    return nearness * nearness * (3.0 - 2.0 * nearness)


def relative_to_uniform(attention: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Divide a map by what each patch would have if all had the same; an empty map stays 0."""
    total = float(attention.sum())
    return attention * (attention.size / total) if total > 0 else np.zeros_like(attention)


def colour_over(
    radiograph: npt.NDArray[np.float32],
    relative: npt.NDArray[np.floating],
    original_size: tuple[int, int],
    model_size_px: int,
    fit: str,
) -> Image.Image:
    """Colour a radiograph by a map from [`relative_to_uniform`], on a logarithmic scale from 1x to 16x.

    Args:
        radiograph (`np.ndarray` of shape `(height, width)`):
            The picture to draw on, in [0, 1].
        relative (`np.ndarray` of shape `(rows, columns)`):
            The map.
        original_size, model_size_px, fit: As in [`draw_heatmap`].

    Returns:
        `Image.Image` in RGB: of the same size.
    """
    shown_size = (radiograph.shape[0], radiograph.shape[1])
    over = attention_over_radiograph(relative.astype(np.float32), original_size, model_size_px, fit, shown_size)
    strength = np.log(np.clip(over, 1.0, _FULL_COLOUR)) / np.log(_FULL_COLOUR)
    tint = _STRONGEST_TINT * strength[..., None]
    return _to_rgb(radiograph[..., None] * (1.0 - tint) + _colours(strength) * tint)


def draw_heatmap(
    radiograph: npt.NDArray[np.float32],
    attention: npt.NDArray[np.float32],
    original_size: tuple[int, int],
    model_size_px: int,
    fit: str,
    caption: str = "",
    shown: str = "attention of the class token",
) -> Image.Image:
    """Draw the attention, or another map, in colour over the radiograph, with a legend and a research-use footer.

    Colour shows attention above uniform attention (1x: every patch the same) on a logarithmic scale from 1x to 16x, the
    same for every heatmap; patches with less keep their grey. If no patch exceeds 1.5x, the caption says that the
    attention is nearly uniform, as the mean over many heads and layers often is.

    Args:
        radiograph (`np.ndarray` of shape `(height, width)`):
            The picture to draw on, in [0, 1]. It may be smaller than the original.
        attention (`np.ndarray` of shape `(rows, columns)`):
            Attention per patch.
        original_size (`tuple[int, int]`):
            Height and width of the original radiograph, in pixels.
        model_size_px (`int`):
            Side of the square image that the model saw, in pixels.
        fit (`str`):
            How the radiograph was made square, `"pad"` or `"squash"`.
        caption (`str`, *optional*):
            A line below the picture, such as the predicted label with its probability.
        shown (`str`, *optional*):
            What the map is, for the line at the bottom.

    Returns:
        `Image.Image` in RGB: the radiograph in its own proportions with the overlay, a colour bar at its right and two
        lines of text below.
    """
    relative = relative_to_uniform(attention)
    explanation = f"{attention.shape[0]} x {attention.shape[1]} patches; 1x: as much as if all got the same"
    if not relative.any():
        explanation += "; empty: no patch raises the score"
    elif relative.max() < _CLEARLY_UNEVEN:
        explanation += f"; nearly uniform, at most {relative.max():.2f}x"
    lines = [f"{caption} ({explanation})" if caption else explanation, f"{shown[0].upper()}{shown[1:]}. {_FOOTER}"]
    return _with_legend(colour_over(radiograph, relative, original_size, model_size_px, fit), lines)


def _colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    try:
        from matplotlib import colormaps
    except ImportError:
        raise MLCAKError("Heatmaps need matplotlib, which is not installed. Run: pip install matplotlib.") from None
    return np.asarray(colormaps[_COLOURS](values)[..., :3])


def _to_rgb(values: npt.NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8), mode="RGB")


def _with_legend(overlay: Image.Image, texts: list[str]) -> Image.Image:
    """Frame the overlay: colour bar at its right, what it shows and the research-use line below."""
    text_px = margin = min(22, max(11, overlay.width // 42))
    font, line = ImageFont.load_default(size=text_px), round(1.5 * text_px)
    text_width = overlay.width + 7 * text_px  # a margin, the bar and its labels
    lines = [piece for text in texts for piece in _wrap(text, font, text_width)]
    height = overlay.height + margin + line * len(lines) + margin // 2
    canvas = Image.new("RGB", (text_width + margin, height), "black")
    canvas.paste(overlay, (margin // 2, margin // 2))
    draw = ImageDraw.Draw(canvas)
    bar_left, bar_height = overlay.width + margin, max(overlay.height - 2 * margin, 1)
    shades = np.linspace(1.0, 0.0, bar_height)[:, None].repeat(text_px, 1)
    canvas.paste(_to_rgb(_colours(shades)), (bar_left, margin))
    for value in _TICKS:
        y = margin + (1 - np.log(value) / np.log(_FULL_COLOUR)) * bar_height
        draw.text((bar_left + text_px + margin // 3, y), f"{value}x", "white", font, anchor="lm")
    for index, text in enumerate(lines):
        draw.text((margin // 2, overlay.height + margin + line * index), text, "white", font)
    return canvas


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    """Break a text into lines that are at most `width_px` wide, at its spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
