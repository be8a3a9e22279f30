"""`python -m tests.schema.changes` writes docs/schema-changes.md anew; a test compares it with what the check says."""

from __future__ import annotations

from .page import BY_HAND, PAGE, table

if __name__ == "__main__":
    _, heading, by_hand = PAGE.read_text().partition(BY_HAND)
    PAGE.write_text(table() + heading + by_hand)
