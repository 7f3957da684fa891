"""Explanation maps against the boxes of their findings, and against baselines."""
