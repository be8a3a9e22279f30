"""Row 19: subscribers against a model of what they must be given."""
