"""Radiograph files -> predictions."""
