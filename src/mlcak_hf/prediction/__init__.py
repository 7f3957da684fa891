"""From radiograph files to probabilities, findings and heatmaps.

What `mlcak predict` calls, and what any other service around a trained model should call: it reads DICOM, PNG and JPEG
files at their full depth, which the 8-bit image path of `transformers.pipeline` cannot.
"""

from mlcak_hf.prediction.files import check_outputs, find_radiographs
from mlcak_hf.prediction.heatmaps import attention_over_radiograph, draw_heatmap
from mlcak_hf.prediction.predictor import Prediction, RadiographPredictor
from mlcak_hf.prediction.tables import write_predictions

__all__ = [
    "Prediction",
    "RadiographPredictor",
    "attention_over_radiograph",
    "check_outputs",
    "draw_heatmap",
    "find_radiographs",
    "write_predictions",
]
