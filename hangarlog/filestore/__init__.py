"""The store in a folder. Each event is written to the journal and to its stream; a read uses either."""
