"""Measuring models against each other: metrics of both tasks, intervals, calibration, localisation, reports."""

from .metrics import MLCAKMetric, make_compute_metrics, task_metrics
from .scores import TaskScores, global_scores, hard_labels, local_scores, probabilities

__all__ = [
    "MLCAKMetric",
    "TaskScores",
    "global_scores",
    "hard_labels",
    "local_scores",
    "make_compute_metrics",
    "probabilities",
    "task_metrics",
]
