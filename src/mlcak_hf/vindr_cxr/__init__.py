"""VinDr-CXR as a source of radiographs and labels."""
