"""Radiographs and labels of any source -> a Parquet dataset."""
