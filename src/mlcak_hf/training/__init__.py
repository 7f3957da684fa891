"""Trainer, arguments, checkpoints, and the record of a training."""
