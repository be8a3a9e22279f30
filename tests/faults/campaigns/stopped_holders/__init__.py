"""Row 16: the holder of a lock is stopped, or killed."""
