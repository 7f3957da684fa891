"""A study: a table of models trained over folds and seeds, from one protocol file."""
