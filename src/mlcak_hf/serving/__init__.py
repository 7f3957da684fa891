"""Predictions as a service: a watched folder, an HTTP server and a DICOM node."""
