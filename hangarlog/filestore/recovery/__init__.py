"""After a crash or a copy: what the files prove goes into the journal, and from there into the streams."""
