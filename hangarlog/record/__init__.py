"""One line of the log: an event's envelope becomes bytes with a checksum, and bytes become an envelope again."""
