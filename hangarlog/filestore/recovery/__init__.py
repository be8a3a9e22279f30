"""Recovery after a crash or a copy: the journal is restored first, then the streams from the journal."""
