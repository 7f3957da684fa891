"""Shards of a dataset: planned, written by several processes, kept in a work folder until all are there."""
