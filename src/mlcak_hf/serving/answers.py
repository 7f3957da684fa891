"""What a door answers for one radiograph: the same object over HTTP and from an Inference Endpoint."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from ..prediction.onnx_metadata import RESEARCH_NOTICE
from ..prediction.reading import Prediction


def answer(prediction: Prediction, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer for a prediction, or for a refusal.

    Args:
        prediction ([`Prediction`]):
            Of a file that could be read.
        provenance (`Mapping`):
            As in [`FilePredictor.provenance`].

    Returns:
        `dict`: `predictions`, a list of `{"label", "score"}`, highest first, and empty for a refused image; `findings`,
        `decisions`, `warning` and `refused_because` as in [`Prediction`]; `heatmap`, a PNG file in base64, if one was
        drawn; the provenance; and a notice. It holds nothing from the file but what the model says about it.
    """
    scores = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    return {
        "predictions": [{"label": label, "score": score} for label, score in scores],
        "findings": {name: None if math.isnan(score) else score for name, score in prediction.findings.items()},
        "decisions": {name: decision._asdict() for name, decision in prediction.decisions.items()},
        "warning": prediction.warning,
        "refused_because": prediction.refused_because,
        "heatmap": None if prediction.heatmap is None else base64.b64encode(prediction.heatmap.read_bytes()).decode(),
        **provenance,
        "notice": RESEARCH_NOTICE,
    }
