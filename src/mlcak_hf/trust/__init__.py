"""Whether an input may be predicted at all."""
