"""DICOM files: header, pixels, grey values."""
