"""`python -m tests.events.field_types` writes docs/field-types.md anew; a test compares it with what happens."""

from __future__ import annotations

from .page import PAGE, table

if __name__ == "__main__":
    PAGE.write_text(table())
