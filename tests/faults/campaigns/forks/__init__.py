"""Row 11: forks, spawned processes, and threads."""
