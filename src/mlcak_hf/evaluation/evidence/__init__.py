"""One model on one dataset: everything that is measured for its report."""
