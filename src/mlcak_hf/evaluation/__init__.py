"""Scores, metrics, intervals and comparisons."""
