"""The method: what a teacher passes to a student."""
