"""Recorders of eventsourcing."""
