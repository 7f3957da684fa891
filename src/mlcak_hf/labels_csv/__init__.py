"""A folder of radiographs and a CSV file of labels as a source."""
