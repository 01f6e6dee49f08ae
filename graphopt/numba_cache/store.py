"""Store: object code on disk, one file for each function, signature and processor.

A file is a digest of its content, then the content; with a secret the digest is one that only who knows it can make. It is
written under another name and renamed, so it is whole or not there. What is cut short, changed, or could have been written by
somebody else is refused and removed. The folder belongs to the user and nobody else may write to it. What cannot be read or
written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

from graphopt.native.store import is_ours, make_room, placed

with contextlib.suppress(ImportError):  # of Windows, where there is no store
    import fcntl

__all__ = ["Lock", "Store", "opened"]

logger = logging.getLogger("graphopt")

_SUFFIX = ".numba"
_MAGIC = b"graphopt numba 1\n"
_DIGEST = 32
_PAUSE = 0.005  # seconds
_LEFT_BEHIND = 3600.0


def opened(folder: str, limit: int, secret: bytes) -> Store | None:
    """Return the store in a folder, made if need be; None, and a line in the log, where nothing can or may be kept."""
    path = Path(folder).expanduser()
    try:
        if sys.platform == "win32":
            raise PermissionError("whose a file is cannot be told on Windows")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not _is_trusted(status, stat.S_ISDIR, secret):
            raise PermissionError("it is not ours alone")
        _tidy(path)
        return Store(path, limit, secret)
    except (OSError, RuntimeError) as error:
        logger.warning("graphopt.numba_cache keeps nothing in %s: %s", folder, error)
        return None


def _tidy(folder: Path) -> None:
    """Remove what processes have left that died while they wrote or compiled."""
    with contextlib.suppress(OSError):
        for path in (*folder.glob("*.part"), *folder.glob("*.lock")):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < time.time() - _LEFT_BEHIND:
                    path.unlink()


def _is_trusted(status: os.stat_result, kind: Any, secret: bytes) -> bool:
    """Say whether something was written by us; with a secret, by anybody but not by everybody: the content is checked then."""
    return is_ours(status, kind) or bool(secret and kind(status.st_mode) and not status.st_mode & 0o002)


class Store:
    """A folder of object code. For several threads and processes."""

    def __init__(self, folder: Path, limit: int, secret: bytes = b"") -> None:
        self.folder = folder
        self.limit = limit
        self.secret = hashlib.blake2b(secret).digest() if secret else b""  # as long as a key may be

    def found(self, name: str) -> bytes | None:
        """Return the content of a name; None if there is none that is sound."""
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(handle, "rb") as file:
                sound = _is_trusted(os.fstat(file.fileno()), stat.S_ISREG, self.secret)
                content = file.read() if sound else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.debug("%s cannot be read: %s", path, error)
            return None
        head, body = content[: len(_MAGIC) + _DIGEST], content[len(_MAGIC) + _DIGEST :]
        if not hmac.compare_digest(head, _MAGIC + self._digest(name, body)):
            logger.warning("%s is not what was written there, or others may write to it: it is not used", path)
            self.drop(name)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used last
        return body

    def keep(self, name: str, content: bytes) -> bool:
        """Keep content under a name, and say whether that was possible."""
        path = self._path(name)
        if not placed(path, _MAGIC + self._digest(name, content) + content):  # a full disk, a folder that is gone
            return False
        make_room(self.folder, f"*{_SUFFIX}", self.limit, keep=path)
        return True

    def drop(self, name: str) -> None:
        """Remove what is kept under a name."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def lock(self, name: str, patience: float) -> Lock:
        """Return the lock of a name: held by this process, or not if that takes too long or cannot be."""
        return Lock(self.folder / f"{name}.lock", patience)

    def size(self) -> int:
        """Return how many bytes are kept."""
        with contextlib.suppress(OSError):
            return sum(path.stat().st_size for path in self.folder.glob(f"*{_SUFFIX}"))
        return 0

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _digest(self, name: str, content: bytes) -> bytes:
        """Return the digest of content under its name: renamed files are refused too."""
        return hashlib.blake2b(name.encode() + b"\0" + content, digest_size=_DIGEST, key=self.secret).digest()


class Lock:
    """A lock between processes, from when it is made until it is closed. Who waited in vain goes on without.

    The file is removed by who held it. Another process may have opened it by then and hold what nobody else sees; at worst
    two processes compile the same.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self.held = False
        self._handle = -1
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError:
            return
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.held = True
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(_PAUSE)
            except OSError:  # a file system without locks
                return

    def close(self) -> None:
        """Let go."""
        if self._handle >= 0:
            if self.held:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
                    fcntl.flock(self._handle, fcntl.LOCK_UN)  # a process that was forked meanwhile holds it as well
            os.close(self._handle)
            self._handle = -1
            self.held = False
