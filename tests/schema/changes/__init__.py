"""Changes an application can make to its events: those that make history unreadable, and those that do not."""
