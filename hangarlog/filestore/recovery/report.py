"""The report of a recovery."""

from __future__ import annotations

import msgspec

from hangarlog.errors import CorruptionError


class Recovered(msgspec.Struct):
    """What a recovery did.

    Attributes:
        since: The position after which the recovery compared journal and streams.
        last: The journal's last position.
        journal_cut: Bytes of a torn tail cut off the journal.
        joined: Events that the journal had lost, restored from the commit ring.
        mended: Events that the journal had lost, restored from their streams.
        rolled_forward: Events written into streams that lacked them.
        streams_cut: Bytes cut off streams because the journal does not have them.
        put_aside: Intact records outside the recovered history, moved to `put-aside.jsonl`.
        ring_lost: True if the commit ring is gone. The last events acknowledged before the machine stopped may be lost.
        lost: Events that were committed in this boot but not durable, and that no file has.
        damage: Repaired damage that no crash explains, each with its place. The old file is kept as `NAME.damaged`.
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
