"""A whole store is checked, mended or copied."""
