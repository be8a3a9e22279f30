"""The record format: encode events as lines with a checksum, and decode and check lines."""
