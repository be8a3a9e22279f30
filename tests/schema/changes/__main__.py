"""`python -m tests.schema.changes` writes docs/schema-changes.md anew; a test compares it with what the check says."""

from __future__ import annotations

from .page import PAGE, table

if __name__ == "__main__":
    PAGE.write_text(table())
