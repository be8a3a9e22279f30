"""Row 3: full disks, and others that refuse."""
