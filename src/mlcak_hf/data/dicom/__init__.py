"""DICOM files: header, pixels, grey values."""

from .header import MAX_PIXELS
from .reader import read_dicom, read_dicom_resized

__all__ = ["MAX_PIXELS", "read_dicom", "read_dicom_resized"]
