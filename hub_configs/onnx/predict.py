"""Predict radiographs with the ONNX model beside this file.

    pip install -r requirements.txt
    python predict.py chest.png other.dcm

Reads DICOM, PNG and JPEG files by the modules in `mlcak_hf/`, which need neither torch nor transformers.
"""

import sys
from pathlib import Path

try:
    from mlcak_hf import MLCAKError, OnnxPredictor, Prediction
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed. Run: pip install -r requirements.txt")


def describe(prediction: Prediction) -> str:
    """Return what is known about one file, on a few lines."""
    lines = [str(prediction.file)]
    for head, scores in (("global", prediction.probabilities), ("finding", prediction.findings)):
        for name, probability in scores.items():
            line = f"  {name}: {probability:.4f}"
            if (found := prediction.decisions.get(f"{head}/{name}")) is not None and found.threshold is not None:
                line += f", threshold {found.threshold:.4f}, decision: {found.decision or 'none'}"
            if found is not None and found.calibrated is not None:
                line += f", calibrated {found.calibrated:.4f}"
            lines.append(line)
    notes = {"not read": prediction.error, "refused": prediction.refused_because, "warning": prediction.warning}
    return "\n".join([*lines, *(f"  {kind}: {reason}" for kind, reason in notes.items() if reason)])


def main() -> int:
    """Predict the files of the command line; return 1 if one cannot be read or is refused."""
    files = sys.argv[1:]
    if not files:
        print("Usage: python predict.py FILE ...", file=sys.stderr)
        return 2
    try:
        predictor = OnnxPredictor(Path(__file__).parent)
    except MLCAKError as error:
        sys.exit(f"error: {error}")
    failed = 0
    for prediction in predictor.stream(files):
        print(describe(prediction))
        failed += prediction.outcome != "predicted"
    print(predictor.about.notice)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
