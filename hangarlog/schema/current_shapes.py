"""The wire shapes of an application's classes as they are now, next to what its lock has."""

from __future__ import annotations

from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.compare import Comparisons
from hangarlog.schema.describe import describe_all
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.renames import guess_successors, repeated_renames
from hangarlog.schema.shape import all_patterns
from hangarlog.schema.skeleton import Drafts


class CurrentShapes:
    """The wire shapes of an application's classes, and their patterns, which may be run because they are trusted."""

    def __init__(self, serializer: EventSerializer, lock: SchemaLock) -> None:
        self.serializer, registry = serializer, serializer.registry
        self.described = describe_all(registry.types, serializer.enc_hook)
        self.shapes = {
            name: shape
            for name, shape in self.described.items()
            if isinstance(shape, dict) and registry.canonical_name(name) == name
        }
        self.patterns = all_patterns(self.shapes.values())
        before = {
            name: shape for name, locked in lock.events.items() if (shape := locked.schema(locked.version)) is not None
        }
        changed = [(shape, self.shapes[name]) for name, shape in before.items() if name in self.shapes]
        self.comparisons = Comparisons(runs_patterns=True, renames=repeated_renames(changed))
        self.drafts = Drafts(self.comparisons.renames)
        gone = {name: shape for name, shape in before.items() if name not in registry.types}
        new = {name: shape for name, shape in self.shapes.items() if name not in lock.events}
        self.successors = guess_successors(gone, new)
