"""Store: the folder that keeps machine code from one process to the next.

A file is ``<key>-<digest of its content>.so``: a library that is not what it was when it was written is never loaded. The
folder and its files belong to the user and nobody else may write to them; where that is not so, nothing is kept.
``GRAPHOPT_STORE`` names another folder, or says ``off``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

__all__ = ["folder", "found", "is_ours", "kept", "make_room", "placed"]

#: The most bytes a folder keeps; what was not used for longest goes first.
_ROOM = 64 << 20


def folder() -> Path | None:
    """Return the folder, made if need be; None where nothing can or shall be kept."""
    said = os.environ.get("GRAPHOPT_STORE", "")
    if said == "off" or sys.platform == "win32":
        return None
    path = Path(said) if said else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphopt"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path if is_ours(path.lstat(), stat.S_ISDIR) and os.access(path, os.W_OK) else None
    except (OSError, RuntimeError):
        return None


def found(key: str) -> Path | None:
    """Return the file of a key if there is a sound one."""
    where = folder()
    if where is None:
        return None
    for path in sorted(where.glob(f"{key}-*.so")):
        try:
            if is_ours(path.lstat(), stat.S_ISREG) and path == _named(where, key, path.read_bytes()):
                with contextlib.suppress(OSError):
                    os.utime(path)  # used last
                return path
            path.unlink()
        except OSError:
            continue
    return None


def kept(key: str, content: bytes) -> Path | None:
    """Keep a library; return where, None if that cannot be."""
    where = folder()
    if where is None:
        return None
    path = _named(where, key, content)
    if not placed(path, content):  # a full disk costs time, nothing else
        return None
    make_room(where, "*.so", _ROOM, keep=path)
    return path


def placed(path: Path, content: bytes) -> bool:
    """Write a file that is whole or not there, readable by nobody else; say whether that was possible."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError:
        return False
    return True


def _named(where: Path, key: str, content: bytes) -> Path:
    return where / f"{key}-{hashlib.blake2b(content, digest_size=16).hexdigest()}.so"


def is_ours(status: os.stat_result, kind: object) -> bool:
    """Say whether a file is of this kind, ours, and nobody else may write to it."""
    return bool(kind(status.st_mode)) and status.st_uid == os.geteuid() and not status.st_mode & 0o022  # type: ignore[operator]


def make_room(where: Path, pattern: str, room: int, *, keep: Path) -> None:
    """Remove what was not used for longest until files of a pattern take no more than so many bytes; ``keep`` stays."""
    with contextlib.suppress(OSError):
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in where.glob(pattern))
        excess = sum(size for _, size, _ in files) - room
        for _, size, path in files:
            if excess <= 0:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                excess -= size
