"""Predict radiographs with a trained model, and draw what it attended to.

    python examples/prediction/predict_radiographs.py runs/student-mlcak vindr-cxr/test --output runs/predictions

The first argument is the folder of a trained model or its name on the Hub; the others are DICOM, PNG or JPEG files, or
folders of them. Written to --output: predictions.csv, and heatmaps/<file name>.png for each radiograph. `mlcak predict`
does the same with more choices; this script shows the Python API behind it.

Research use only: not a medical device, no basis for a diagnosis.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlcak_hf.prediction.predictor import RadiographPredictor
from mlcak_hf.prediction.tables import write_predictions
from mlcak_hf.radiographs.file_search import find_radiographs
from mlcak_hf.script import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model, or its name on the Hub")
    parser.add_argument("radiographs", nargs="+", type=Path, help="files, or folders of them")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--batch_size", type=int, default=16, help="radiographs in the model at once")
    args = parser.parse_args()

    predictor = RadiographPredictor.from_pretrained(args.model)
    files = [file for path in args.radiographs for file in find_radiographs(path, exclude=[args.output])]
    # A stream, not a list: each batch is written before the next is read.
    predictions = predictor.stream(
        files, batch_size=args.batch_size, heatmaps_dir=args.output / "heatmaps", progress=True
    )
    unread = write_predictions(predictions, "csv", args.output / "predictions.csv")

    print(f"{len(files) - unread} of {len(files)} radiographs: {args.output / 'predictions.csv'}")
    print(f"Heatmaps: {args.output / 'heatmaps'}")
    return 1 if unread else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
