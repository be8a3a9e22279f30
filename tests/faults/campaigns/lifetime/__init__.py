"""Row 20: stores that live long: written, followed, kept small, copied, and used by processes that are killed."""
