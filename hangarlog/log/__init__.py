"""A segmented log of lines: lines are appended to the active segment, and read from any number in either direction."""
