"""Measuring models against each other: metrics of both tasks, intervals, calibration, localisation, reports."""

from .calibration import operating_thresholds
from .comparison import Comparison
from .localisation import Localisation, class_token_attention, localise
from .metrics import MLCAKMetric, make_compute_metrics, task_metrics
from .predictions import ModelPredictions
from .report import compare, evaluate_predictions
from .scores import TaskScores, global_scores, hard_labels, local_scores, probabilities

__all__ = [
    "Comparison",
    "Localisation",
    "MLCAKMetric",
    "ModelPredictions",
    "TaskScores",
    "class_token_attention",
    "compare",
    "evaluate_predictions",
    "global_scores",
    "hard_labels",
    "local_scores",
    "localise",
    "make_compute_metrics",
    "operating_thresholds",
    "probabilities",
    "task_metrics",
]
