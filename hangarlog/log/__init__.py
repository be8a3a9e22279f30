"""A segmented log of lines: append to the active segment, and read from any number in either direction."""
