"""The event store on NATS JetStream, for more than one machine. Install `hangarlog[jetstream]`: it needs nats-py."""

from __future__ import annotations

try:
    import nats as _nats  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.jetstream needs nats-py, which is not installed; run: pip install 'hangarlog[jetstream]'",
        name="nats",
    ) from error

from hangarlog.jetstream.store import JetStreamEventStore

__all__ = ["JetStreamEventStore"]
