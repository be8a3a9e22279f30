"""Row 5: bytes of files rot."""
