"""Row 9: an error at every call, and an interrupt at every point."""
