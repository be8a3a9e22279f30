"""What an import did."""

from __future__ import annotations

import msgspec


class Imported(msgspec.Struct):
    """What an import did.

    `taken` counts events imported now, `already` events that the store had before, `streams` the streams in the source,
    `snapshots` the snapshots imported. `not_taken` maps the id of each stream that was left out to the reason,
    `snapshots_not_taken` that of each snapshot that is ahead of its stream. `positions_kept` is False if an imported
    event has another position than in the source; a database's positions are not compared.
    """

    taken: int = 0
    already: int = 0
    streams: int = 0
    snapshots: int = 0
    not_taken: dict[str, str] = {}
    snapshots_not_taken: dict[str, str] = {}
    positions_kept: bool = True
