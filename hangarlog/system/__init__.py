"""The operating system: files, locks and wake-ups. All system calls go through this package."""
