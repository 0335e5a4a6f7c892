"""Which process is silent? A thread in every process tells the others how far it is, and ends the run where nothing moves any more.

A collective that never ends says nothing about who is missing: in NCCL it kills the process from another thread, in gloo it is an error about a socket. So
every process writes its step and a sign of life into the store of the process group; one that has made no progress for long reads what the others write,
names those that are silent or behind, and exits. Silence is what the reader's own clock has measured since a word changed: the clocks of machines differ.
The groups' own timeout is longer and only a last resort.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

logger = logging.getLogger(__name__)
EXIT_CODE = 3  # of a process that gave up waiting
MESSAGES = ("torch.distributed.distributed_c10d", "megatron.core.pipeline_parallel.p2p_communication")  # modules in which a process waits for others
GROUP_FACTOR = 2.0  # the process groups wait longer than the watchdog by this


@dataclass(frozen=True)
class Beat:
    """How far a process is.

    Attributes:
        step: optimiser steps begun.
        doing: what it is at.
        count: of its words; the next one is another, whatever else it says.
        waiting: whether it was inside a message to or from others, so that it is not the one to blame.
    """

    step: int
    doing: str
    count: int
    waiting: bool = False


def diagnosis(beats: Mapping[int, Beat | None], silence: Mapping[int, float], *, alive_seconds: float, timeout_seconds: float) -> str:
    """One sentence that names the silent processes: those that give no sign of life, else those that do not wait for others, else those behind.

    Args:
        beats: last word of every process; None = it never gave one.
        silence: seconds for which that word has been the same.
        alive_seconds: it changes at least as often as this where a process lives.
    """
    dead = [rank for rank, beat in beats.items() if beat is None or silence[rank] > alive_seconds]
    head = f"no progress for {timeout_seconds:.0f} s (parallel.timeout_seconds)"
    tail = "the same command goes on from the last checkpoint"
    if dead:
        ages = ", ".join(f"rank {rank} ({_last_word(beats[rank], silence[rank])})" for rank in dead)
        return f"{head}: no sign of life from {ages}: dead, stopped, or its machine is unreachable; {tail}"
    known = {rank: beat for rank, beat in beats.items() if beat is not None}
    busy = {rank: beat for rank, beat in known.items() if not beat.waiting} or known
    behind = min(beat.step for beat in busy.values())
    last = [rank for rank, beat in busy.items() if beat.step == behind]
    waiting = [rank for rank in last if known[rank].doing != "computing"] or last
    names = ", ".join(f"rank {rank} ({known[rank].doing} at step {known[rank].step})" for rank in waiting)
    return f"{head}: all processes live, and the others wait for {names}; {tail}"


def _last_word(beat: Beat | None, silence: float) -> str:
    return "never heard of" if beat is None else f"silent for at least {silence:.0f} s, before that {beat.doing} at step {beat.step}"


class Watchdog:
    """Watches over this process's progress and the others'.

    Args:
        rank, world: of this process.
        store: that all processes reach; None = the default group's, over a connection of its own.
        timeout_seconds: without progress after which the run ends.
        give_up: called with the sentence; by default the process writes it to stderr and exits.
        clock: seconds, of this process alone.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        *,
        timeout_seconds: float,
        store: Any = None,
        give_up: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout_seconds
        self._store = store if store is not None else _own_connection()
        self._give_up = give_up or _exit
        self._interval = min(max(timeout_seconds / 10, 0.2), 10.0)
        self._alive = 4 * self._interval + 2
        self._clock = clock
        self._step, self._doing, self._moved = 0, "starting", clock()
        self._count = 0
        self._heard: dict[int, tuple[Beat | None, float]] = {}  # of every process the last word, and when it was first read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._moved = self._clock()
        self._thread.start()

    def progress(self, step: int, doing: str) -> None:
        """This process has got somewhere."""
        self._step, self._doing, self._moved = step, doing, self._clock()

    def stop(self) -> None:
        """End watching; what follows has no time limit."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * self._interval)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                sentence = self.look()
                if sentence is not None:
                    self._give_up(sentence)
                    return
            except RuntimeError as error:  # the store is gone: torch has no kind of its own for that
                if not self._ended.is_set() and self._standstill() > self.timeout:
                    self._give_up(f"no progress for {self.timeout:.0f} s, and rank 0, which keeps the store, does not answer ({str(error).splitlines()[0]})")
                    return

    def look(self) -> str | None:
        """Give a sign of life, and read those of the others when the standstill gets long; the sentence that ends the run, if it is too long."""
        self._publish()
        if self._standstill() <= self.timeout - 2 * self._alive:
            return None  # nobody needs to read as long as things move: it costs a message for every other process
        for rank in range(self.world):
            beat = self._beat(rank)
            if rank not in self._heard or self._heard[rank][0] != beat:
                self._heard[rank] = beat, self._clock()
        if self._standstill() <= self.timeout:
            return None
        silence = {rank: self._clock() - since for rank, (_, since) in self._heard.items()}
        return diagnosis({rank: beat for rank, (beat, _) in self._heard.items()}, silence, alive_seconds=self._alive, timeout_seconds=self.timeout)

    def _standstill(self) -> float:
        return self._clock() - self._moved

    def _publish(self) -> None:
        self._count += 1
        beat = Beat(self._step, self._doing, self._count, _waits_for_others())
        self._store.set(f"watchdog/{self.rank}", json.dumps(beat.__dict__))

    def _beat(self, rank: int) -> Beat | None:
        key = f"watchdog/{rank}"
        return Beat(**json.loads(self._store.get(key))) if self._store.check([key]) else None


def _waits_for_others() -> bool:
    """Whether the main thread is inside a collective or a message between stages. One whose GPU waits cannot be told from one that computes."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(MESSAGES):
            return True
        frame = frame.f_back
    return False


def _own_connection() -> Any:
    """The main thread may be blocked inside a request on its own connection."""
    store = dist.distributed_c10d._get_default_store()
    return store.clone()  # type: ignore[attr-defined]  # missing from torch's stubs


def _exit(sentence: str) -> None:
    logger.error(sentence)
    sys.stderr.write(f"error: {sentence}\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)  # the main thread hangs in a collective: no exception would reach it
