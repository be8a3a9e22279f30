"""Row 13: the same boot over another past."""
