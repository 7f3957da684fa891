"""What a model attended to."""
