"""Row 17: a store is closed, or its process ends, at any step of any call."""
