"""Row 10: hostile input, in parts that run in processes of their own (part.py), each a module."""
