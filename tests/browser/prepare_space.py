"""Make what the browser test of the Gradio app needs: the app of a shipped model, bad files, and what is expected.

Usage: python prepare_space.py FOLDER.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from prepare import write_bad

from mlcak_hf import OnnxPredictor
from mlcak_hf.deployment.gradio_app import export_space
from mlcak_hf.phantoms.render import render_phantom


def main(folder: Path) -> None:
    """Make everything in the folder; what a test of pushes left there stays."""
    for name in ("pneumonia", "bad"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "bad").mkdir(parents=True)
    write_bad(folder / "bad", np.clip(render_phantom(seed=4, index=0, size_px=300).pixels, 0, 1))
    export_space("pneumonia-28", folder / "pneumonia")
    files = sorted((folder / "pneumonia" / "examples").iterdir())
    predictions = OnnxPredictor(folder / "pneumonia").predict(files)
    expected = {
        entry.file.name: {
            "probabilities": {name: f"{value:.3f}" for name, value in entry.probabilities.items()},
            "decision": entry.decisions["global/pneumonia"].decision or "not decided",
            "warning": entry.warning,
        }
        for entry in predictions
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
