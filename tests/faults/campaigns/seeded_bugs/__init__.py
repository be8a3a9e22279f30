"""Row 7: bugs in copies of the library, which the harness must see."""
