"""hangarlog measured beside floors and peers: `python -m bench`."""
