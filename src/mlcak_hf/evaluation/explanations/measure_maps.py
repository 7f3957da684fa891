"""A model and a split with boxes -> scores of its explanation maps and of the baselines that they should beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.collator import MLCAKCollator
from ...data.columns import column_values
from ...data.sources import RadiographDataset
from ...errors import DatasetError, MLCAKError, RecipeError
from ...explanation.choices import METHODS, label_index
from ...explanation.explain import Maps, explain
from ...explanation.perturbation import (
    deletion_and_insertion,
    label_probabilities,
    rank_correlation,
    with_random_weights,
)
from ...pretrained import load_model
from ...training.training_images import training_hits
from ...weights import weights_digest
from ..arguments import NO_SPLIT, EvaluatedModel, EvaluationArguments, EvaluationData
from ..localisation import MarkedImages, box_coverages, localise, overlap
from ..run import check_models
from ..scores import FloatArray
from .measurement import MAP_METRICS, MapMeasurement

#: Numbers of patches of the overlap that are tried, as shares of the patches on the radiograph.
_SHARES = (0.02, 0.05, 0.1, 0.2)
#: Random maps whose scores are averaged.
_RANDOM_MAPS = 10


@dataclass(kw_only=True)
class ExplanationArguments(EvaluationArguments):
    """Which models' explanation maps to measure, on which images with boxes."""

    mean_images: int = field(
        default=100, metadata={"help": "Most training images of a finding behind its mean map; 0: no mean map."}
    )
    perturbed: int = field(
        default=200, metadata={"help": "Most pairs of image and finding for deletion and insertion; 0: neither."}
    )
    # Nothing is compared between models.
    baseline: str | None = field(default=None, init=False)
    pairs: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean_images", "perturbed"):
            if getattr(self, name) < 0:
                raise RecipeError(f"--{name} must be at least 0, which leaves it out; got {getattr(self, name)}.")


@dataclass(frozen=True)
class _Pairs:
    """Images and findings of a split whose maps are made; `covered` and `shown` only for boxes."""

    dataset: RadiographDataset
    images: NDArray[np.intp]
    labels: NDArray[np.intp]
    covered: Maps = field(default_factory=lambda: np.empty(0))
    shown: Maps = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, some: NDArray[np.intp]) -> _Pairs:
        """Select pairs with boxes."""
        return _Pairs(self.dataset, self.images[some], self.labels[some], self.covered[some], self.shown[some])


class _Network:
    """A loaded model with its processor, applied to pairs in batches."""

    def __init__(self, model: EvaluatedModel, args: ExplanationArguments) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = load_model(model.folder, model.role)
        if not self.model.config.has_attention:
            raise MLCAKError(f"Explanations need models with attention; {model.role} is a CNN. Leave it out.")
        torch.nn.Module.to(self.model, device).requires_grad_(False)
        self.random = with_random_weights(self.model).requires_grad_(False)
        self.processor, self.batch_size = model.load_processor(), args.batch_size
        self._collate = MLCAKCollator(self.processor)

    def pixels(self, pairs: _Pairs, some: slice | NDArray[np.intp]) -> torch.Tensor:
        rows = [pairs.dataset[int(image)] for image in pairs.images[some]]
        pixel_values: torch.Tensor = self._collate(rows)["pixel_values"].to(self.model.device)
        return pixel_values

    def maps(self, pairs: _Pairs, random_weights: bool = False) -> dict[str, Maps]:
        """Maps of every method, `(pairs, rows, columns)`. One without a positive value stays 0 everywhere."""
        model = self.random if random_weights else self.model
        made: dict[str, list[Maps]] = {method: [] for method in METHODS}
        for start in range(0, len(pairs), self.batch_size):
            some = slice(start, start + self.batch_size)
            for method, maps in explain(model, self.pixels(pairs, some), pairs.labels[some].tolist()).items():
                made[method].append(maps)
        empty = np.empty((0, *self.model.grid_size))
        return {method: np.concatenate([empty, *maps]) for method, maps in made.items()}


def measure_maps(model: EvaluatedModel, args: ExplanationArguments) -> MapMeasurement:
    """Measure the maps of one model, or read what an earlier start measured.

    Args:
        model ([`EvaluatedModel`]):
            Whose maps.
        args ([`ExplanationArguments`]):
            On which images. What was not given is as in the model's training.

    Returns:
        [`MapMeasurement`]: Also saved in the folder `measurements` of the output.

    Raises:
        [`MLCAKError`]: When the split has no boxes, or the model none of their findings, or the output is no folder.
    """
    data = EvaluationData.open(args, [model])
    check_models([model], data)
    names = data.image_names(args.split)
    key = _key(model, data, names) | {"content": _content(model, data, args.mean_images)}
    file = Path(args.output) / "measurements" / f"{model.file_stem}.npz"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--output {args.output} must be a folder to write ({error}). Name another one.") from error
    if file.is_file() and (earlier := MapMeasurement.load(file)).key == key:
        print(f"{model.name}: {file} is read, measured earlier on the same images with the same options.", flush=True)
        return earlier
    network = _Network(model, args)
    pairs, unknown = _boxed_pairs(network, data, args.split)
    if not len(pairs):
        raise DatasetError(
            f"The split {args.split!r} must have boxes of the findings of {model.role}; it has "
            f"{'boxes of ' + ', '.join(unknown) if unknown else 'none'}. Name a split, or a dataset, that has some."
        )
    means = _mean_maps(network, data, args, pairs)
    maps, shares = _all_maps(network, pairs, means), {}
    if data.args.threshold_split != NO_SPLIT:
        chosen, _ = _boxed_pairs(network, data, data.args.threshold_split)
        # A finding without boxes in the measured split has no mean map.
        chosen = chosen.take(np.flatnonzero(np.isin(chosen.labels, pairs.labels)))
        if len(chosen):
            shares = _shares(_all_maps(network, chosen, means), chosen)
    groups = column_values(data.split(args.split), data.columns.group)
    digests = {"evaluated": [pairs.dataset.digest(place) for place in np.unique(pairs.images).tolist()]}
    known = training_hits(model.folder, digests)
    measured = MapMeasurement(
        model=model.name,
        key=key,
        images=tuple(names[image] for image in pairs.images),
        groups=tuple(
            f"image {names[image]}" if groups[image] in (None, "") else str(groups[image]) for image in pairs.images
        ),
        findings=tuple(network.model.config.local_labels[label] for label in pairs.labels),
        area=pairs.covered.sum(axis=(1, 2)) / pairs.shown.sum(axis=(1, 2)),
        scores=_scores(network, pairs, maps, shares, args.perturbed),
        correlation={
            method: rank_correlation(maps[method][0], maps[f"{method}/random weights"][0], pairs.shown)
            for method in METHODS
        },
        shares={name: [share] for name, share in shares.items()},
        empty={method: float(np.mean(_sums(maps[method][0], pairs.shown) <= 0)) for method in METHODS},
        unknown_findings=unknown,
        trained_on=None if known is None else known["evaluated"],
    )
    measured.save(file)
    return measured


def _key(model: EvaluatedModel, data: EvaluationData, names: Sequence[str]) -> dict[str, Any]:
    args = data.args
    options = ("split", "threshold_split", "mean_images", "perturbed", "seed")
    rule = ("validation_fraction", "split_seed", "folds", "fold")
    which = {"weights": weights_digest(model.folder), "lowres": model.lowres, "dataset": Path(args.dataset).name}
    which |= {name: getattr(args, name) for name in options + rule} | {"columns": asdict(data.columns)}
    return which | {"images": sha256("\n".join(names).encode()).hexdigest()}


def _content(model: EvaluatedModel, data: EvaluationData, mean_images: int) -> dict[str, str]:
    """SHA-256 of the stored images and of the columns that count, of every split that a measurement reads."""
    columns, config = data.columns, model.load_config()
    counted = (columns.label, columns.findings, columns.group, "boxes", "original_height", "original_width")
    used, digests = {data.args.split, data.args.threshold_split} - {NO_SPLIT}, {}
    for split in used | ({"train"} & set(data.splits) if mean_images else set()):
        rows = data.split(split)
        try:
            hashed = sha256(data.radiographs(split, config).pixel_fingerprint().encode())
        except OSError as error:
            raise DatasetError(f"An image of the split {split!r} cannot be read: {error}. Correct its row.") from error
        for column in counted:
            if column in rows.column_names:
                hashed.update(repr((column, rows.features[column], column_values(rows, column))).encode())
        digests[split] = hashed.hexdigest()
    return digests


def _boxed_pairs(network: _Network, data: EvaluationData, split: str) -> tuple[_Pairs, tuple[str, ...]]:
    """The pairs of an image and a finding of the model with boxes in it, and the findings that it does not have."""
    config, rows = network.model.config, data.split(split)
    size = (config.image_size, config.image_size)
    marked = MarkedImages.of_rows(rows, config.image_size, network.processor.fit, data.columns.image)
    found = []
    for image, boxes in enumerate(marked.boxes):
        for finding in sorted({name for name, _ in boxes} & set(config.local_labels)):
            found.append((image, finding, [box for name, box in boxes if name == finding]))
    images = np.array([image for image, _, _ in found], dtype=np.intp)
    grid = network.model.grid_size
    covered, shown = box_coverages([boxes for *_, boxes in found], size, grid, marked.radiographs[images])
    usable = np.flatnonzero(covered.any(axis=(1, 2)))  # not outside of the radiograph
    labels = np.array([label_index(config, finding) for _, finding, _ in found], dtype=np.intp)
    unknown = tuple(sorted(set(marked.findings) - set(config.local_labels)))
    return _Pairs(data.radiographs(split, config), images, labels, covered, shown).take(usable), unknown


def _mean_maps(
    network: _Network, data: EvaluationData, args: ExplanationArguments, pairs: _Pairs
) -> dict[int, dict[str, Maps]]:
    """For each finding, the mean map of every method over training images with it; empty without a training split."""
    if "train" not in data.splits or not args.mean_images:
        return {}
    dataset = data.radiographs("train", network.model.config)
    present, random = dataset.targets["local_targets"] > 0.5, np.random.default_rng(args.seed)
    means = {}
    for label in np.unique(pairs.labels).tolist():
        # Without an image of the finding, any images.
        rows = np.flatnonzero(present[:, label])
        rows = random.permutation(rows if len(rows) else np.arange(len(dataset)))[: args.mean_images]
        found = network.maps(_Pairs(dataset, np.sort(rows), np.full(len(rows), label)))
        means[label] = {method: _of_sum_one(maps, np.ones_like(maps)).mean(axis=0) for method, maps in found.items()}
    return means


def _sums(maps: Maps, shown: Maps) -> Maps:
    """The sum of every map over its radiograph, without the padding."""
    return np.asarray((maps * shown).sum(axis=(-2, -1)))


def _of_sum_one(maps: Maps, shown: Maps) -> Maps:
    """Maps divided by their sums. One without a positive value on its radiograph says nothing, and becomes uniform."""
    sums = _sums(maps, shown)[..., None, None]
    uniform = 1 / shown.sum(axis=(-2, -1), keepdims=True)
    return np.where(sums > 0, maps / np.where(sums > 0, sums, 1), uniform)


def _all_maps(network: _Network, pairs: _Pairs, means: Mapping[int, Mapping[str, Maps]]) -> dict[str, Maps]:
    """Every map of every pair, `(maps, pairs, rows, columns)`: those of each method, and the baselines."""
    own, untrained = network.maps(pairs), network.maps(pairs, random_weights=True)
    random = np.random.default_rng(0).random((_RANDOM_MAPS, *pairs.shown.shape))
    found = {"random": random}
    for method in METHODS:
        found |= {method: own[method][None], f"{method}/random weights": untrained[method][None]}
        if means:
            mean = [means[label][method] for label in pairs.labels.tolist()]
            found[f"{method}/mean map"] = np.reshape(mean, (1, *pairs.shown.shape))
    return found


def _shares(maps: Mapping[str, Maps], pairs: _Pairs) -> dict[str, float]:
    """For each map, the share of patches with the best mean overlap on these pairs, the lowest of equal ones."""
    chosen = {}
    for name, several in maps.items():
        usable = _of_sum_one(several[0], pairs.shown)
        means = [overlap(usable, pairs.covered, pairs.shown, each).mean() for each in _SHARES]
        chosen[name] = _SHARES[int(np.argmax(means))]
    return chosen


def _scores(
    network: _Network, pairs: _Pairs, maps: Mapping[str, Maps], shares: Mapping[str, float], perturbed: int
) -> dict[str, FloatArray]:
    scores = {name: np.full((len(MAP_METRICS), len(pairs)), np.nan) for name in maps}
    usable = {name: _of_sum_one(several, pairs.shown) for name, several in maps.items()}
    for name, several in usable.items():
        found = [localise(each, pairs.covered, pairs.shown) for each in several]
        scores[name][0] = np.mean([each.hit for each in found], axis=0)
        scores[name][1] = np.mean([each.share for each in found], axis=0)
        if name in shares:
            overlaps = [overlap(each, pairs.covered, pairs.shown, shares[name]) for each in several]
            scores[name][2] = np.mean(overlaps, axis=0)
    chosen = np.sort(np.random.default_rng(0).permutation(len(pairs))[:perturbed])
    for start in range(0, len(chosen), network.batch_size):
        some = chosen[start : start + network.batch_size]
        pixels, labels = network.pixels(pairs, some), pairs.labels[some].tolist()
        probability = partial(label_probabilities, network.model, labels=labels)
        for name, several in usable.items():
            if not name.endswith("/random weights"):
                curves = deletion_and_insertion(probability, pixels, several[0][some], pairs.shown[some])
                scores[name][3:, some] = curves
    return scores
