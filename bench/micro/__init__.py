"""Micro-benchmarks: small parts of hangarlog beside their floors, as ratios to a stored baseline."""
