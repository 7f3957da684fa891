"""Check a download before preparing it."""
