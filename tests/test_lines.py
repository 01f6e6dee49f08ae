"""Lines and what waits for them: messages arrive whole, once and in order, or the line closes and both ends know."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from distributed.comm import connect, listen
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graphopt.execute.ears import Ears
from graphopt.execute.line import Line, can_take
from graphopt.execute.packing import flat, round_again
from graphopt.execute.runs import Mailbox

pytestmark = pytest.mark.timeout(30)


def with_lines(test: Callable[..., Awaitable[None]], hears: bool = True) -> None:
    """Run a test with both ends of a line, and lists of what the far end has heard and of who is gone."""

    async def run() -> None:
        far: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        heard: list[Any] = []
        gone: list[str] = []

        async def handle(comm: Any) -> None:
            ended = asyncio.Event()

            def left() -> None:
                gone.append("far")
                ended.set()

            far.set_result(Line(comm, heard.append if hears else None, left))
            await ended.wait()

        listener = await listen("tcp://127.0.0.1:0", handle)
        comm = await connect(listener.contact_address)
        near = Line(comm, None, lambda: gone.append("near"))
        try:
            await test(near, await far, heard, gone)
        finally:
            near.close()
            (await far).close()
            await until(lambda: sorted(gone) == ["far", "near"])
            listener.stop()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


# -- lines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 2**16 - 40, 2**16, 3_000_000])
def test_messages_arrive_whole_and_in_order(size: int) -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        messages = [(i, bytes([i % 256]) * size) for i in range(20)]

        def send() -> None:
            for message in messages:
                near.send(message, 20.0)

        await asyncio.to_thread(send)
        await until(lambda: len(heard) == 20)
        assert heard == messages
        assert gone == []

    with_lines(test)


def test_threads_do_not_mix_their_messages() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        def send(number: int) -> None:
            for i in range(50):
                near.send((number, i, b"x" * 5000 * number), 20.0)

        await asyncio.gather(*[asyncio.to_thread(send, number) for number in range(6)])
        await until(lambda: len(heard) == 300)
        for number in range(6):
            assert [i for who, i, _ in heard if who == number] == list(range(50))
        assert all(body == b"x" * 5000 * number for number, _, body in heard)

    with_lines(test)


def test_the_near_end_is_read_by_who_waits() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        assert near.receive() == []
        far.send("one")
        far.send("two")
        found: list[Any] = []
        await until(lambda: len(found.extend(near.receive()) or found) == 2)
        assert found == ["one", "two"]

    with_lines(test)


def test_an_end_that_closes_is_noticed() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        far.close()
        await until(lambda: "far" in gone)
        await until(lambda: near.receive() == [] and near.closed)
        with pytest.raises(OSError, match="closed"):
            near.send("anybody?")

    with_lines(test)


def test_what_is_not_a_message_closes_the_line() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        near.socket.send(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: far.closed)
        assert heard == []

    with_lines(test)


def test_a_message_that_cannot_be_dealt_with_closes_the_line() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        def fail(message: Any) -> None:
            raise ValueError("what?")

        far.hear = fail
        near.send("nonsense")
        await until(lambda: far.closed)

    with_lines(test)


def test_an_end_that_does_not_read_is_given_up() -> None:
    """Otherwise a thread would wait for ever for a process that was stopped."""

    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        def send_much() -> None:
            for _ in range(1000):
                near.send(b"x" * 100_000, 0.2)

        with pytest.raises(OSError, match="does not read"):
            send_much()
        assert near.closed

    with_lines(test, hears=False)


def test_comms_without_a_socket_are_left_alone() -> None:
    async def run() -> None:
        async def handle(comm: Any) -> None:
            await comm.read()

        listener = await listen("inproc://", handle)
        comm = await connect(listener.contact_address)
        assert not can_take(comm)
        await comm.close()
        listener.stop()

    asyncio.run(run())


# -- ears --------------------------------------------------------------------------------------------------------------


def test_a_thread_that_waits_reads_instead_of_the_event_loop() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        ears = Ears()
        ears.add(far)
        assert not ears.listen(0.001)
        with ears, ears:
            near.send("held")
            await asyncio.sleep(0.05)
            assert heard == []
            assert await asyncio.to_thread(ears.listen, 0.001)
            assert heard == ["held"]
            near.send("late")
        assert not ears.listen(0.001)
        await until(lambda: heard == ["held", "late"])  # the event loop reads again, also what came before
        near.send("after")
        await until(lambda: heard == ["held", "late", "after"])

    with_lines(test)


def test_one_thread_listens_and_others_do_not() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        ears = Ears()
        ears.add(far)
        with ears:
            waiting = asyncio.create_task(asyncio.to_thread(ears.listen, 0.3))
            await asyncio.sleep(0.1)
            assert not ears.listen(0.001)
            near.send("for whom?")
            assert await waiting
            assert heard == ["for whom?"]

    with_lines(test)


def test_lines_that_come_and_go_while_a_thread_listens() -> None:
    async def test(near: Line, far: Line, heard: list[Any], gone: list[str]) -> None:
        ears, other = Ears(), Ears()
        with ears:
            ears.add(far)  # there were none: the event loop goes on reading
            near.send(1)
            await until(lambda: heard == [1])
        with ears:
            near.close()
            await until(lambda: ears.listen(0.001) and far.closed)
            ears.discard(far)
            assert ears.listen(0.001)
        with other:
            assert not other.listen(0.001)

    with_lines(test)


# -- values ------------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
    arrays.complex_number_dtypes(endianness="?"),
)


@given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)))
def test_arrays_come_out_as_they_went_in(value: np.ndarray) -> None:
    for each in (value, value.T, value[::2] if value.ndim else value):
        found, pickled = round_again(flat(each)), pickle.loads(pickle.dumps(each, protocol=5))
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape, found.strides) == (pickled.dtype, pickled.shape, pickled.strides)
        assert found.tobytes() == pickled.tobytes()
        assert found.flags.writeable
        assert not np.shares_memory(found, each)


@given(arrays.from_dtype(np.dtype("f8")) | arrays.from_dtype(np.dtype("i4")) | arrays.from_dtype(np.dtype("c8")))
def test_scalars_come_out_as_they_went_in(value: Any) -> None:
    found = round_again(flat(value))
    assert type(found) is type(value)
    assert found.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, None, 2j, "text", (1, 2), [np.ones(2)], {"a": (1,)}, (), ("f8", (2,), b"x" * 16)],
    ids=repr,
)
def test_other_values_come_out_as_they_went_in(value: Any) -> None:
    found = round_again(flat(value))
    assert type(found) is type(value)
    assert repr(found) == repr(value)


class Own(np.ndarray):
    """An array of a kind of its own."""


def test_arrays_of_other_kinds_keep_them() -> None:
    for value in (np.ones(3).view(Own), np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["a", None], object)):
        found = round_again(flat(value))
        assert type(found) is type(value)
        assert repr(found) == repr(value)


# -- mailboxes ---------------------------------------------------------------------------------------------------------


def test_a_thread_waits_for_what_comes() -> None:
    box = Mailbox()

    def deliver() -> None:
        for slot in (1, 2):
            time.sleep(0.003)
            box.slots[slot] = slot * 10
            box.wake()

    thread = threading.Thread(target=deliver)
    thread.start()
    assert box.wait([1, 2], lambda: False) == {1: 10, 2: 20}
    thread.join()
    assert not box.slots


def test_a_thread_does_not_wait_when_it_is_wanted() -> None:
    box = Mailbox()
    asked: list[None] = []

    def wanted() -> bool:
        asked.append(None)
        return len(asked) > 2

    assert box.wait([1], wanted) is None
    assert len(asked) == 3
    box.slots[1] = "late"
    box.wake()  # whoever does not wait any more is not harmed
    assert box.wait([1], wanted) == {1: "late"}


def test_who_waits_hears_that_a_run_was_given_up() -> None:
    box = Mailbox()

    def stop() -> None:
        box.error = ZeroDivisionError("given up")
        box.wake()

    timer = threading.Timer(0.003, stop)
    timer.start()
    with pytest.raises(ZeroDivisionError, match="given up"):
        box.wait([1], lambda: False)
    timer.join()

    async def later() -> None:
        with pytest.raises(ZeroDivisionError, match="given up"):
            await box.get([1])

    asyncio.run(later())


def test_the_event_loop_waits_too() -> None:
    async def run() -> None:
        box = Mailbox()
        threading.Timer(0.003, lambda: (box.slots.update({1: "there"}), box.wake())).start()
        assert await box.get([1]) == {1: "there"}

    asyncio.run(run())
