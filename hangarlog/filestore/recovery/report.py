"""What a recovery did."""

from __future__ import annotations

import msgspec

from hangarlog.errors import CorruptionError


class Recovered(msgspec.Struct):
    """What a recovery did.

    `since`: the position it began to compare at, `last` the one that the journal ends with. `journal_cut`: torn bytes
    cut off the journal. `joined`: events that the journal had lost and the commit ring had. `mended`: events of the
    journal restored from their streams. `rolled_forward`: events written into streams, and `streams_cut` bytes cut off
    streams, to agree with the journal. `put_aside`: whole records that no whole history leads to, kept in
    `put-aside.jsonl`. `ring_lost`: the commit ring is gone, and what was acknowledged last before the machine stopped
    may have gone with it. `lost`: events that were committed in this boot, were not durable, and are in no file.
    `damage`: what was mended that no crash leaves, each with its place; what stood there is kept as `NAME.damaged`.
    """

    since: int = 0
    last: int = 0
    journal_cut: int = 0
    joined: int = 0
    mended: int = 0
    rolled_forward: int = 0
    streams_cut: int = 0
    put_aside: int = 0
    ring_lost: bool = False
    lost: int = 0
    damage: list[CorruptionError] = []
