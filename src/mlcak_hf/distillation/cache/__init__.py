"""What teachers say about every image, kept on disk."""
