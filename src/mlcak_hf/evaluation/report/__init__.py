"""A comparison as text, table and figure."""
