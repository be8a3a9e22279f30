"""Encoding typed events as payloads, and decoding payloads of any schema version as the typed events of today."""
