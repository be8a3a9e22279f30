"""Typed events become payloads, and payloads become typed events of today, through the chain of upcasters."""
