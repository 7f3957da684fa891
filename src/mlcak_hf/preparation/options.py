"""The choices that every preparation has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import DatasetError, MLCAKError
from ..image_geometry_mlcak import check_choice
from ..radiographs.choices import FITS, VOI_MODES, Fit, ValueRange, Voi, check_value_range
from ..radiographs.grey_values import PERCENTILE_REFERENCE_PX, PERCENTILES

Bits = Literal[8, 16]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class PreparationOptions:
    """How images are stored and how they are divided into splits.

    Args:
        size_px (`int`, *optional*, defaults to 256):
            Side of the stored square images, in pixels.
        bits (`int`, *optional*, defaults to 8):
            Bits per pixel of the stored images, 8 or 16.
        fit (`str`, *optional*, defaults to `"pad"`):
            `"pad"` to a square with black, or `"squash"`.
        voi (`str`, *optional*, defaults to `"dicom"`):
            Limits of the grey values, as in `read_radiograph`: `"dicom"`, `"percentile"` or `"none"`.
        value_range (`tuple[float, float]`, *optional*):
            Stored values that become 0 and 1, such as `(0, 4095)` for 12-bit values in a 16-bit PNG.
            `None` uses the range of the stored bits.
        groups (`str`, *optional*):
            Which images belong to one patient, so that no patient is in two splits. Groups are numbered in the dataset.
        validation_fraction (`float`, *optional*, defaults to 0.15):
            Share of the training images set aside for validation, by whole groups.
        seed (`int`, *optional*, defaults to 0):
            Seed of the validation split.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"` at the first unusable image, or `"skip"` and list it.

    Raises:
        [`DatasetError`]: When a choice is not one of the values above.
    """

    size_px: int = 256
    bits: int = 8
    fit: Fit = "pad"
    voi: Voi = "dicom"
    value_range: ValueRange | None = None
    groups: str | Path | None = None
    validation_fraction: float = 0.15
    seed: int = 0
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        self._check_one_of(fit=FITS, voi=VOI_MODES, on_error=get_args(OnError), bits=get_args(Bits))
        if self.size_px < 1:
            raise DatasetError(f"size_px must be at least 1; got {self.size_px}. Use 256, for example.")
        self._check_fraction("validation_fraction")
        if self.value_range is not None:
            check_value_range(self.value_range)
            object.__setattr__(self, "value_range", (float(self.value_range[0]), float(self.value_range[1])))
        if self.groups is not None:
            object.__setattr__(self, "groups", str(self.groups))

    def choices(self) -> dict[str, Any]:
        """Return what determines the dataset, as plain values; no path, which may name a person."""
        # Not on_error: with "raise", a shard with an unreadable image is never finished.
        percentile = self.voi == "percentile"
        return {
            "size_px": self.size_px,
            "bits": self.bits,
            "fit": self.fit,
            "voi": self.voi,
            "value_range": None if self.value_range is None else list(self.value_range),
            "percentiles": list(PERCENTILES) if percentile else None,
            "percentile_reference_px": PERCENTILE_REFERENCE_PX if percentile else None,
            "groups": "file" if self.groups else "image",
            "validation_fraction": self.validation_fraction,
            "seed": self.seed,
        }

    def _check_one_of(self, error: type[MLCAKError] = DatasetError, **allowed: tuple[Any, ...]) -> None:
        for name, values in allowed.items():
            check_choice(name, getattr(self, name), values, error)

    def _check_fraction(self, name: str) -> None:
        value = getattr(self, name)
        if not 0 <= value < 1:
            raise DatasetError(f"{name} must be at least 0 and less than 1; got {value}. Use 0.15, for example.")
