"""Row 20: stores that live long. They are written, followed, compressed, retained, backed up, restored, and killed."""
