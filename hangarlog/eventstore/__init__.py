"""The interface of every event store: append events with an expected version, read them typed and in order."""
