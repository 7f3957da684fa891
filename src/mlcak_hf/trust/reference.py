"""`reference.npz`: how far an image is from the training images in the model's own features, written and read here."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from ..weights import weights_digest
from .operating_points import check_weights

REFERENCE_FILE = "reference.npz"
_FORMAT = 1


@contextmanager
def captured_class_tokens(model: Any) -> Iterator[list[Any]]:
    """Collect the class tokens after the final norm, which both heads take, of every batch inside the block.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The model.

    Yields:
        `list[torch.Tensor]`: One tensor of shape `(B, width)` for each forward pass so far.
    """
    found: list[Any] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    try:
        yield found
    finally:
        hook.remove()


@dataclass(frozen=True)
class DistanceLimit:
    """The distance from the training images beyond which an image is refused.

    Args:
        limit (`float`):
            Largest distance that is not refused.
    """

    limit: float

    def refusal(self, distance: float) -> str | None:
        """Say why an image at this distance is refused; `None` if it is not."""
        if distance <= self.limit:
            return None
        return f"unlike the training images (distance {distance:.3g}, limit {self.limit:.3g})"


@dataclass(frozen=True)
class Reference(DistanceLimit):
    """Mean and precision of the class tokens of training images, and the distance beyond which an image is refused.

    Args:
        weights (`str`):
            SHA-256 of the weights, as from [`weights_digest`].
        dataset (`str`):
            Where the training images come from.
        n_images (`int`):
            Number of training images.
        mean (`np.ndarray` of shape `(width,)`, float32), precision (`np.ndarray` of shape `(width, width)`, float32):
            Of their class tokens, with the covariance of Ledoit and Wolf.
        false_refusals (`float`):
            Share of images like the held-out ones that is refused.
        n_held_out (`int`):
            Number of images behind the limit, which the model was not trained on.
    """

    weights: str
    dataset: str
    n_images: int
    mean: NDArray[np.float32]
    precision: NDArray[np.float32]
    false_refusals: float
    n_held_out: int

    @classmethod
    def fit(
        cls, training: ArrayLike, held_out: ArrayLike, weights: str, dataset: str, false_refusals: float = 0.05
    ) -> Reference:
        """Fit the reference.

        Args:
            training (array-like of shape `(n, width)`):
                Class tokens of training images.
            held_out (array-like of shape `(m, width)`):
                Class tokens of images that the model was not trained on. Training images are closer to each other than
                any new image, so the limit is chosen on these.
            weights, dataset (`str`):
                As in the class.
            false_refusals (`float`, *optional*, defaults to 0.05):
                The next image that is exchangeable with the held-out ones is refused with at most this probability.

        Raises:
            [`MLCAKError`]: When there are too few images.
        """
        tokens, others = np.asarray(training, np.float64), np.asarray(held_out, np.float64)
        if not 0 < false_refusals < 1:
            raise MLCAKError(f"The share of false refusals must be between 0 and 1; got {false_refusals}.")
        kept = _kept(len(others), false_refusals)
        if len(tokens) < 2:
            raise MLCAKError(
                f"A reference needs at least two training images besides the held-out ones; got {len(tokens)}. Name "
                "the split that the model was trained on with --reference."
            )
        if kept > len(others):
            raise MLCAKError(
                f"A limit with {100 * false_refusals:.0f} % false refusals needs at least "
                f"{math.ceil(1 / false_refusals) - 1} images that the model was not trained on; got {len(others)}. Use "
                "more images, or a larger share."
            )
        from sklearn.covariance import LedoitWolf  # not needed to apply a reference

        found = LedoitWolf().fit(tokens)
        mean, precision = found.location_.astype(np.float32), found.precision_.astype(np.float32)
        limit = np.sort(_distances(others, mean, precision))[kept - 1]
        return cls(float(limit), weights, dataset, len(tokens), mean, precision, false_refusals, len(others))

    def distances(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the Mahalanobis distance of class tokens of shape `(n, width)` from the mean, in shape `(n,)`."""
        return _distances(np.asarray(tokens, np.float64), self.mean, self.precision)

    def most_refused(self, count: int) -> int:
        """Return how many of `count` images like the held-out ones may be refused by chance.

        Exceeded with a probability of at most 2.5 %. The share that a limit from `n_held_out` images refuses is
        distributed as a beta variable, so the number of refused images is beta-binomial. Images count as independent.
        """
        from scipy.stats import betabinom

        kept = _kept(self.n_held_out, self.false_refusals)
        return int(betabinom.ppf(0.975, count, self.n_held_out + 1 - kept, kept))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `reference.npz` beside the weights: numbers and plain strings, nothing pickled."""
        # Through a handle, so that an interrupted call does not leave another name behind.
        with Path(folder, REFERENCE_FILE).open("wb") as handle:
            np.savez_compressed(handle, format=_FORMAT, **vars(self))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], weights: str | None = None) -> Reference | None:
        """Read the reference of the model in a folder; `None` if there is none.

        Args:
            folder (`str` or `os.PathLike`):
                Folder of the model.
            weights (`str`, *optional*):
                [`weights_digest`] of the folder, if it is known already.

        Raises:
            [`MLCAKError`]: When the file is damaged or was made for other weights.
        """
        file = Path(folder, REFERENCE_FILE)
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            if int(arrays.pop("format")) != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            found = cls(**{name: value if value.ndim else value.item() for name, value in arrays.items()})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise MLCAKError(
                f"{file} must hold the reference of a model, but cannot be read ({error}). Run `mlcak calibrate` "
                "again, or delete it."
            ) from error
        check_weights(file, found.weights, weights or weights_digest(folder))
        return found


def _kept(held_out: int, false_refusals: float) -> int:
    """Rank of the held-out distance that becomes the limit, from 1."""
    return math.ceil((1 - false_refusals) * (held_out + 1) - 1e-9)


def _distances(
    tokens: NDArray[np.float64], mean: NDArray[np.float32], precision: NDArray[np.float32]
) -> NDArray[np.float64]:
    centred = tokens - mean
    squares = ((centred @ precision.astype(np.float64)) * centred).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
