"""Synthetic chest radiographs in VinDr-CXR's layout."""
