"""Opens the shared state of a store, or makes it."""

from __future__ import annotations

import contextlib
import errno

from hangarlog.errors import StoreOpenError
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.shared_state import SharedState, create_state
from hangarlog.system.file_lock import FairLock, held


def open_state(folder: Folder, lock: FairLock, lock_seconds: float | None) -> SharedState:
    """Open the state of a store, for reading if it may not be written; make it under the write lock if it is missing.

    Raises:
        LockTimeoutError: other processes held the lock for `lock_seconds`.
        StoreOpenError: it can be neither made nor read.
    """
    filesystem, path, home = folder.filesystem, folder.state_path, folder.home
    with contextlib.suppress(OSError, ValueError):
        return SharedState(filesystem, path, home)
    try:
        with held(lock, lock_seconds):
            create_state(filesystem, path)
        return SharedState(filesystem, path, home)
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if refused:
            with contextlib.suppress(OSError, ValueError):
                return SharedState(filesystem, path, home, writable=False)
        advice = "open it once with write permission" if refused else "remove the cause, then try again"
        cause = f"its shared state can neither be made nor read: {error}; {advice}"
        raise StoreOpenError(folder.path, cause) from error
