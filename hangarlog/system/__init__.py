"""The operating system: files, locks, wake-ups. Calls go down through here, and nowhere else."""
