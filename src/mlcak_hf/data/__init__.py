"""Rows of any dataset -> batches."""
