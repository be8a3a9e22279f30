"""The disk quota of a user on the file system of a folder, from Linux's `quotactl_fd`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from hangarlog.system.platform import folder_fd

_SYSTEM_CALL = 443  # On all machines; from Linux 5.14 on.
_GET_USER_QUOTA = 0x800007 << 8
_ANSWER = Struct(
    "=8QI4x"
)  # Of blocks: hard and soft limit, bytes in use. Of inodes: the same. Two times; what is valid.
_BLOCK_BYTES = 1024  # Of the limits.

Ask = Callable[[int, int, "ctypes.Array[ctypes.c_char]"], int]


class Quota(NamedTuple):
    """What a user may have, and has. A limit of 0 is none."""

    bytes_allowed: int
    bytes_used: int
    inodes_allowed: int
    inodes_used: int


def _ask(fd: int, user: int, answer: ctypes.Array[ctypes.c_char]) -> int:
    return int(ctypes.CDLL(None).syscall(_SYSTEM_CALL, fd, _GET_USER_QUOTA, user, answer))


def quota_of(folder: str, user: int, ask: Ask = _ask) -> Quota | None:
    """Return the quota of a user on the file system of a folder, None if there is none or it is not known."""
    if sys.platform != "linux":
        return None
    answer = ctypes.create_string_buffer(_ANSWER.size)
    with folder_fd(folder) as fd:
        if ask(fd, user, answer):
            return None
    hard, soft, used, inodes_hard, inodes_soft, inodes, *_ = _ANSWER.unpack(answer.raw)
    limit, inode_limit = (min(filter(None, pair), default=0) for pair in ((hard, soft), (inodes_hard, inodes_soft)))
    return Quota(limit * _BLOCK_BYTES, used, inode_limit, inodes) if limit or inode_limit else None
