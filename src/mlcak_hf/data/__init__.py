"""Radiographs and their labels: files to arrays, VinDr-CXR as a dataset, phantoms, paired views."""

from .dicom import read_dicom
from .radiograph import read_radiograph, resize_radiograph

__all__ = ["read_dicom", "read_radiograph", "resize_radiograph"]
