"""Random classes and their next versions: what the check says of a change, held against decoding stored events."""
