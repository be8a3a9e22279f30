"""The interface of every event store: events go in with an expected version, and come out typed, in order."""
