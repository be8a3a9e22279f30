"""Row 14: files of a store in use are replaced."""
