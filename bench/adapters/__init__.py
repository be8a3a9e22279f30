"""Adapters beside their frameworks' own SQLite: `python3 tools/dev.py integrations --speed [NAME…]`."""
