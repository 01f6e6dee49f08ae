"""Line: a connection that dask made, read and written without dask's protocol.

A message through a comm of dask's passes its protocol, tornado and asyncio, and takes a quarter of a millisecond; an iteration
needs three, one after the other. What is exchanged in an iteration is small, and the connection is open. So both ends take
the socket over, and send pickles with a length before them: any thread writes at once, and one callback of the event loop
reads (or a thread that waits for an answer does).

Who may connect is still dask's business: it opens the connection, checks certificates, and passes it to a handler of its own
kind; what it would not unpickle never gets here. Where a comm has no socket of this kind (processes in one, other
transports) there is no line, and messages go through the comm.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop

__all__ = ["GREETING", "Line", "can_take"]

logger = logging.getLogger("distributed.graphopt")

#: The first message of those who accept: what comes instead from somebody else is not of this form.
GREETING = ("graphopt-line", 1)

_HEADER = struct.Struct("!4sI")
_MAGIC = b"gopt"
_READ = 2**16
_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def can_take(comm: Any) -> bool:
    """Say whether a comm has a socket that can be taken over."""
    return isinstance(getattr(getattr(comm, "stream", None), "socket", None), socket.socket)


class Line:
    """A comm whose socket was taken over; made on the event loop.

    Parameters
    ----------
    comm
        Of which nothing is awaited any more.
    hear
        Called on the event loop with each message; if there is none, messages are for who calls `receive`.
    gone
        Called on the event loop when the line closes, for whatever reason.
    """

    def __init__(self, comm: Any, hear: Callable[[Any], None] | None, gone: Callable[[], None]) -> None:
        self.comm, self.hear, self.gone = comm, hear, gone
        self.loop: IOLoop = comm.stream.io_loop
        self.socket: socket.socket = comm.stream.socket
        self.secret = isinstance(self.socket, ssl.SSLSocket)
        self.lock = threading.Lock()  # of the socket: with TLS, to read changes what is written
        self.turn = threading.Lock()  # to write
        self.buffer = bytearray()
        self.closed = False
        comm.stream.set_close_callback(self.close)  # somebody else may close it: the pool that it came from
        self.loop.remove_handler(self.socket.fileno())
        if hear is not None:
            self.resume()

    def send(self, message: Any, patience: float = 0.0) -> None:
        """Write a message; wait so many seconds if the other end does not read. May be called on any thread.

        Raises
        ------
        OSError
            If the line is closed, or closes because the other end does not read.
        """
        body = pickle.dumps(message, protocol=5)
        rest = _HEADER.pack(_MAGIC, len(body)) + body
        until = 0.0
        with self.turn:
            while rest:
                try:
                    with self.lock:
                        if self.closed:
                            raise OSError("the line is closed")
                        sent = self.socket.send(rest)
                    rest = rest[sent:]
                except _AGAIN:
                    now = time.monotonic()
                    until = until or now + patience
                    if now >= until:  # half a message may be on its way: nothing can follow it
                        self.close()
                        raise OSError("the other end does not read") from None
                    time.sleep(0.001)
                except OSError:
                    self.close()
                    raise

    def receive(self) -> list[Any]:
        """Return the messages that have come, without waiting for any. A line whose other end is closed closes itself."""
        lost = False
        while True:
            try:
                with self.lock:
                    data = b"" if self.closed else self.socket.recv(_READ)
                    more = len(data) == _READ or (self.secret and not self.closed and self.socket.pending())  # type: ignore[attr-defined]
            except _AGAIN:
                break
            except OSError:
                data = b""
            if not data:
                lost = True
                break
            self.buffer += data
            if not more:
                break
        messages = []
        while len(self.buffer) >= _HEADER.size:
            magic, length = _HEADER.unpack_from(self.buffer)
            if magic != _MAGIC:
                lost = True
                break
            if len(self.buffer) < _HEADER.size + length:
                break
            messages.append(pickle.loads(memoryview(self.buffer)[_HEADER.size : _HEADER.size + length]))
            del self.buffer[: _HEADER.size + length]
        if lost:
            self.close()
        return messages

    def close(self) -> None:
        """Close the connection. May be called on any thread."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # who waits for something to read is woken
        self.loop.add_callback(self._close)

    def rest(self) -> None:
        """Do not read on the event loop for now: a thread does."""
        if not self.closed:
            self.loop.remove_handler(self.socket.fileno())

    def resume(self) -> None:
        """Read on the event loop again."""
        if not self.closed:
            self.loop.add_handler(self.socket.fileno(), self.read, IOLoop.READ)

    def _close(self) -> None:
        if self.socket.fileno() >= 0:
            self.loop.remove_handler(self.socket.fileno())
        self.comm.abort()
        self.gone()

    def read(self, *_: Any) -> None:
        """Hear what has come."""
        assert self.hear is not None
        for message in self.receive():
            try:
                self.hear(message)
            except Exception:
                logger.exception("graphopt: a message that cannot be dealt with")
                self.close()
