"""A store that nobody here may write to, as a power cut has left it: what the recovery of a writer would show.

The journal's whole batches count, and what the commit ring has beyond them; a torn end is passed over. Streams may be
shorter than the journal says from the checkpoint on, or longer: from there on they are read from the journal.
"""

from __future__ import annotations

from hangarlog.checkpoint import load_checkpoint
from hangarlog.errors import StoreOpenError
from hangarlog.folder import Folder
from hangarlog.record import Envelope, may_be_torn, record_or_cause
from hangarlog.ring import read_ring
from hangarlog.salvage import ENDLESS, read_lines, segments_between


class Unrecovered:
    """What is committed, by the files alone.

    `committed` is the last position; `stored` the last one in the journal itself; `tail` the records after that, from
    the ring. Streams have all records up to position `settled`; `ends` are the last versions of those that have later
    ones. Damage that whole records follow is left to whoever reads it.

    Raises:
        StoreOpenError: it takes a recovery, which has to write, to say what is committed.
    """

    def __init__(self, folder: Folder, store_id: str) -> None:
        self._path = folder.path
        self.stored = self.settled = load_checkpoint(folder).position
        self.ends: dict[str, int] = {}
        known = self._read_journal(folder)
        for frame in read_ring(folder.filesystem, folder.ring_path, store_id).frames:
            records = map(record_or_cause, frame.text.split(b"\n")[:-1])
            known |= {record.position: record for record in records if isinstance(record, Envelope)}
        position = self.committed = self.stored
        while (position := position + 1) in known:
            if known[position].ends_batch:
                self.committed = position
        beyond = max(known, default=0)
        if beyond >= position:  # Else it is the beginning of a batch, which never happened.
            self._refuse(f"position {position} is missing; it has records up to position {beyond}")
        self.tail = [known[position] for position in range(self.stored + 1, self.committed + 1)]
        self._note(self.tail)

    def _read_journal(self, folder: Folder) -> dict[int, Envelope]:
        """Find the last whole batch; gives the records behind it, by position."""
        batch: list[Envelope] = []
        unconnected: dict[int, Envelope] = {}
        before, damaged = self.stored, False
        for segment in segments_between(folder.journal, before + 1, ENDLESS):
            for _, line, record in read_lines(segment):
                if isinstance(record, str):
                    damaged |= b"\0" not in line and line != b""
                    continue
                if damaged and record.position > before + len(batch):
                    before = record.position - len(batch) - 1
                if record.position == before + len(batch) + 1:
                    batch.append(record)
                elif record.position > before:
                    unconnected[record.position] = record
                if batch and record.ends_batch:
                    self._note(batch)
                    self.stored = before = record.position
                    batch, damaged = [], False
            end = segment.end()
            damaged |= not may_be_torn(folder.filesystem.read(segment.fd, segment.size - end, end))
        if damaged or self.stored < self.settled:
            self._refuse("its journal ends in what no crash leaves")
        return unconnected | {record.position: record for record in batch}

    def _note(self, records: list[Envelope]) -> None:
        self.ends |= {record.stream_id: record.stream_version for record in records}

    def _refuse(self, cause: str) -> None:
        raise StoreOpenError(self._path, f"{cause}; open it once with permission to write, which recovers it")
