"""`hangarlog backup`."""

from __future__ import annotations

import msgspec

from hangarlog.cli.app import hangarlog, lock_timeout, named, note_done, with_store
from hangarlog.cli.terminal import progress_of_steps, write_object


@hangarlog.command()
@with_store("target", instead="copy the one to the other: `hangarlog copy STORE TARGET`")
def backup(store: str, target: str) -> None:
    """Copy STORE as it is now to TARGET, and verify the copy.

    Other processes may write to STORE meanwhile. The copy is a store too. Files that TARGET has from an earlier backup
    are not copied again.
    """
    from hangarlog.maintenance.backup import backup as copy

    with named(f"the backup to {target} is not complete"), progress_of_steps() as advance:
        done = copy(store, target, advance, lock_timeout=lock_timeout())
    note_done(f"the backup is complete, up to position {done.position}")
    write_object({"target": target, **msgspec.structs.asdict(done)})
