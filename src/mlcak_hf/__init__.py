"""Low-resolution chest X-ray classification by multilevel collaborative attention knowledge (MLCAK)."""

__version__ = "0.1.0"
