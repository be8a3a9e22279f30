"""Micro-benchmarks: parts of hangarlog and their floors go in, ratios come out and are compared with a baseline."""
