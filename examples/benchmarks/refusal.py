"""Which images does a model refuse? AUROC and share refused at 5 % false refusals, for three scores.

The scores are the distance from the training images that `mlcak calibrate --reference` stores beside a model, and two
that need no reference: 1 - the largest probability, and the energy -log sum exp(logits). Refused are images above the
95th percentile of the validation images; the distance has its own stored limit. AUROC is against the test images. The
share with a warning of the input checks stands beside them, and the share with either.

Changed copies of the test images, photographs (scikit-image and scikit-learn), CT and MR (pydicom's test files) and
other datasets. Lateral views are not tested: none of these sets has any.

    pip install ".[benchmarks]"
    python examples/benchmarks/refusal.py --model runs/student --dataset children.parquet --other adults=adults.parquet
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pydicom.errors
import sklearn.datasets
import torch
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from sklearn.metrics import roc_auc_score

from mlcak_hf import MLCAKError, RadiographPredictor, read_radiograph
from mlcak_hf.data.sources import open_dataset
from mlcak_hf.evaluation.arguments import EvaluatedModel, EvaluationArguments, EvaluationData
from mlcak_hf.image_processing_mlcak import to_unit_range
from mlcak_hf.radiographs.read import resize_radiograph
from mlcak_hf.shipped import resolve_checkpoint
from mlcak_hf.trust.input_checks import file_warnings, image_warnings
from mlcak_hf.trust.reference import captured_class_tokens

SCORES = ("distance", "1 - largest probability", "energy")
CHECKED_PX = 64


def crop(image: np.ndarray) -> np.ndarray:
    """Return the middle half of the height and of the width."""
    height, width = image.shape
    return image[height // 4 : height - height // 4, width // 4 : width - width // 4]


def noisy(image: np.ndarray) -> np.ndarray:
    """Add white noise with a standard deviation of 0.2 of the range."""
    noise = np.random.default_rng(int(image.sum())).standard_normal(image.shape, np.float32)
    return np.clip(image + 0.2 * noise, 0, 1)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "test images": lambda image: image,
    "inverted": lambda image: 1 - image,
    "upside down": lambda image: np.ascontiguousarray(image[::-1]),
    "turned by 90 degrees": lambda image: np.ascontiguousarray(np.rot90(image)),
    "middle quarter": crop,
    "noise added": noisy,
    "only noise": lambda image: np.random.default_rng(int(image.sum())).random(image.shape, np.float32),
}


class Scorer:
    """Three scores and the input checks of images in [0, 1]; higher is stranger."""

    def __init__(self, model: str) -> None:
        self.predictor = RadiographPredictor.from_pretrained(model)
        if self.predictor.safeguards.reference is None:
            raise MLCAKError(f"{model} has no reference. Run `mlcak calibrate {model} DATA --reference train` first.")

    def __call__(self, images: Iterable[tuple[np.ndarray, bool]]) -> tuple[np.ndarray, np.ndarray]:
        """Score images, each with whether its file has a warning: arrays of shape `(n, 3)` and `(n,)`."""
        scores, warned = [], []
        for image, of_file in images:
            warned.append(of_file or bool(image_warnings(resize_radiograph(image, CHECKED_PX, "squash"))))
            scores.append(self._score(image))
        return np.array(scores), np.array(warned)

    def _score(self, image: np.ndarray) -> list[float]:
        pixels = torch.from_numpy(self.predictor.processor.reduce(image[None]))
        with torch.inference_mode(), captured_class_tokens(self.predictor.model) as tokens:
            logits = self.predictor.model(pixels.to(self.predictor.device)).logits[0].float().cpu()
        reference = self.predictor.safeguards.reference
        assert reference is not None
        distance = reference.distances(tokens[0].float().cpu().numpy())[0]
        return [float(distance), 1 - float(logits.softmax(-1).max()), -float(logits.logsumexp(-1))]


def stored(rows, column: str = "image") -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the stored images of a dataset; their files are not known here."""
    for row in rows:
        yield to_unit_range(row[column]), False


def changed(images: Iterable[tuple[np.ndarray, bool]], change: Callable[[np.ndarray], np.ndarray]) -> Iterator:
    """Yield changed images."""
    for image, warned in images:
        yield change(image), warned


def photographs() -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the sample pictures that scikit-learn and scikit-image install, in grey."""
    folders = [Path(sklearn.datasets.__file__).parent / "images"]
    installed = importlib.util.find_spec("skimage")
    if installed is None:
        raise MLCAKError('The photographs need scikit-image. Install it: pip install ".[benchmarks]".')
    folders.append(Path(str(installed.origin)).parent / "data")
    for file in sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".png", ".jpg")):
        with Image.open(file) as picture:
            yield to_unit_range(picture.convert("L")), bool(file_warnings(file, picture.size[::-1]))


def dicom(modality: str) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the images of a modality among the files that pydicom installs, each once."""
    seen = set()
    for file in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*")):
        try:
            if pydicom.dcmread(file, stop_before_pixels=True).get("Modality") != modality:
                continue
            image = read_radiograph(file)
        except (MLCAKError, OSError, ValueError, AttributeError, pydicom.errors.InvalidDicomError):
            continue
        if image.tobytes() not in seen:  # The same image in several encodings.
            seen.add(image.tobytes())
            yield image, bool(file_warnings(file, image.shape))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="Calibrated model, with a reference.")
    parser.add_argument("--dataset", required=True, help="The dataset that it was trained on.")
    parser.add_argument("--split", default="fold", help="Split of test images.")
    parser.add_argument("--images", type=int, default=1000, help="Most images of a split or dataset.")
    parser.add_argument("--other", nargs="*", default=[], help="name=dataset of other images.")
    options = parser.parse_args()
    score = Scorer(options.model)
    files = {"photographs": list(photographs()), "CT": list(dicom("CT")), "MR": list(dicom("MR"))}
    arguments = EvaluationArguments(dataset=options.dataset, models=[], output="")
    data = EvaluationData.open(arguments, [EvaluatedModel("model", resolve_checkpoint(options.model))])

    def some(rows):
        return rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), options.images)).astype(int)))

    column = data.columns.image
    limits = np.quantile(score(stored(some(data.split("validation")), column))[0], 0.95, axis=0)
    limits[0] = score.predictor.safeguards.reference.limit
    test = some(data.split(options.split))
    rows = {name: changed(stored(test, column), change) for name, change in CHANGES.items()}
    rows |= files
    for given in options.other:
        name, _, source = given.partition("=")
        rows[name] = stored(some(next(iter(open_dataset(source).values()))))
    headings = ["Images", *(f"{name}: AUROC, refused" for name in SCORES), "Input checks", "Either"]
    table, usual = Table("", *(Column(name, justify="right") for name in headings)), np.empty((0, len(SCORES)))
    for name, images in rows.items():
        found, warned = score(images)
        cells = []
        for place in range(len(SCORES)):
            refused = np.mean(found[:, place] > limits[place])
            labels = np.repeat([0, 1], [len(usual), len(found)])
            area = f"{roc_auc_score(labels, np.append(usual[:, place], found[:, place])):.3f}, " if len(usual) else ""
            cells.append(f"{area}{100 * refused:.1f} %")
        either = np.mean(warned | (found[:, 0] > limits[0]))
        table.add_row(name, str(len(found)), *cells, f"{100 * np.mean(warned):.1f} %", f"{100 * either:.1f} %")
        usual = found if name == "test images" else usual
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
