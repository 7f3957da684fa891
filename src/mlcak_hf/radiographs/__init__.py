"""A radiograph file (DICOM, PNG, JPEG) -> float32 in [0, 1]."""
