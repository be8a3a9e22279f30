"""The inside of an open store, for tests and measurements. Applications have no use for it, and it may change."""

from __future__ import annotations

from hangarlog.filestore.catalog import Catalog
from hangarlog.filestore.commit_ring import Ring
from hangarlog.filestore.shared_state import SharedState
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.write_session import WriteSession


def write_session(store: FileEventStore) -> WriteSession:
    """Return what holds the write lock, and what the lock protects."""
    return store._write_session


def shared_state(store: FileEventStore) -> SharedState:
    """Return the words that all processes share."""
    return store._state


def catalog(store: FileEventStore) -> Catalog:
    """Return the file with the last version of every stream."""
    return store._catalog


def commit_ring(store: FileEventStore) -> Ring:
    """Return the file that small commits are synced through."""
    return store._sync._ring
