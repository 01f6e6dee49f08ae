"""Parts: what each worker does when a schedule is divided among them (`partition.py`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.schedule import Level, Schedule

__all__ = ["Part", "Partition", "Phase", "Worker"]

Worker = Hashable


@dataclass(frozen=True, slots=True)
class Phase:
    """What a worker does without a message in between.

    Attributes
    ----------
    needs : tuple of int
        The slots that must have come from others before.
    levels : tuple of Level
        What it runs.
    sends : tuple
        To whom it sends which slots after.
    drop : tuple of int
        The slots that nothing reads any more once all that is sent.
    """

    needs: tuple[int, ...]
    levels: tuple[Level, ...]
    sends: tuple[tuple[Worker, tuple[int, ...]], ...]
    drop: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker does in a run.

    Attributes
    ----------
    worker
        Who.
    phases : tuple of Phase
        What it runs, in order.
    size : int
        How many slots there are.
    literals : dict
        The literals that its lanes read, by slot.
    chunks : tuple of int
        The slots of its own blocks of chunked arguments.
    small : tuple of int
        The slots of small arguments and numbers that it reads.
    gives : tuple of int
        The slots that it hands back.
    keeps : tuple of int
        The slots of results that stay with it.
    """

    worker: Worker
    phases: tuple[Phase, ...]
    size: int
    literals: Mapping[int, Any]
    chunks: tuple[int, ...]
    small: tuple[int, ...]
    gives: tuple[int, ...]
    keeps: tuple[int, ...]

    @property
    def lanes(self) -> int:
        """How many kernel calls a run makes."""
        return sum(level.lanes for phase in self.phases for level in phase.levels)

    @property
    def messages(self) -> int:
        """How many messages a run sends to other workers."""
        return sum(len(phase.sends) for phase in self.phases)

    def schedule(self, phase: Phase) -> Schedule:
        """Return what a phase runs in the form in which all schedules are run."""
        template: list[Any] = [None] * self.size
        for slot, value in self.literals.items():
            template[slot] = value
        return Schedule(phase.levels, tuple(template), {})


@dataclass(frozen=True, slots=True)
class Partition:
    """The parts of all workers that take part, and where each result is."""

    parts: Mapping[Worker, Part]
    places: Mapping[int, Worker]  # of what is asked for: who hands it back, or keeps it

    @property
    def lanes(self) -> dict[str, int]:
        """How many kernel calls a run makes on each worker."""
        return {str(worker): part.lanes for worker, part in self.parts.items()}

    @property
    def messages(self) -> int:
        """How many messages the workers send each other in a run."""
        return sum(part.messages for part in self.parts.values())

    def _check(self) -> None:
        """Assert what must hold: what is awaited is sent, once, by somebody who has it, and nobody waits in a circle."""
        sent: dict[tuple[Worker, int], Worker] = {}
        have = {name: {*part.literals, *part.chunks, *part.small} for name, part in self.parts.items()}
        left = {name: list(part.phases) for name, part in self.parts.items()}
        while any(left.values()):
            moved = False
            for name, phases in left.items():
                while phases and all((name, slot) in sent for slot in phases[0].needs):
                    phase = phases.pop(0)
                    moved = True
                    have[name].update(phase.needs)
                    for level in phase.levels:
                        for group in level.groups:
                            for lane in group.lanes:
                                missing = set(lane.reads) - have[name]
                                assert not missing, f"{lane.key!r} on {name!r} reads {missing}, which are not there"
                        writes = [slot for group in level.groups for lane in group.lanes for slot in lane.writes]
                        assert len(set(writes)) == len(writes), "two lanes write to one slot"
                        assert have[name].isdisjoint(writes), "a slot is written twice"
                        have[name].update(writes)
                        have[name].difference_update(level.drop)
                    for to, slots in phase.sends:
                        assert to != name, "a worker sends to itself"
                        assert have[name].issuperset(slots), "what is not there is sent"
                        for slot in slots:
                            assert (to, slot) not in sent, "a slot is sent twice"
                            sent[to, slot] = name
                    have[name].difference_update(phase.drop)
            assert moved, "the parts wait for each other"
        awaited = {(name, slot) for name, part in self.parts.items() for phase in part.phases for slot in phase.needs}
        assert awaited == sent.keys(), "what is sent is not awaited"
        for slot, name in self.places.items():
            part = self.parts[name]
            assert slot in (*part.gives, *part.keeps), "a result is with nobody"
            assert slot in have[name], "a result is dropped"
