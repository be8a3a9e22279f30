"""Measures throughput and latency on a user's own disk, beside the bare calls of the same machine."""
