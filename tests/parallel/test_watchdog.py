"""A run in which nothing moves ends with a sentence that names the silent process."""

import threading
import time
from dataclasses import replace

import pytest
import torch.distributed as dist

from nemo_desta.parallel.watchdog import Beat, Watchdog, diagnosis


def beat(step: int, doing: str) -> Beat:
    return Beat(step, doing, 1)


def said_of(beats: dict[int, Beat | None], **silence: float) -> str:
    """The sentence where every word is 1 s old but for those named."""
    return diagnosis(beats, {rank: silence.get(f"rank{rank}", 1.0) for rank in beats}, alive_seconds=10, timeout_seconds=60)


def test_the_dead_are_named_before_the_slow():
    said = said_of({0: beat(7, "computing"), 1: beat(6, "computing"), 2: None}, rank1=71.0)
    assert "no progress for 60 s" in said and "rank 1 (silent for at least 71 s, before that computing at step 6), rank 2 (never heard of)" in said
    assert "rank 0" not in said


def test_among_the_living_the_one_furthest_behind_is_named():
    beats = {0: beat(7, "computing"), 1: beat(6, "reading data"), 2: beat(7, "computing")}
    said = said_of(beats)
    assert "the others wait for rank 1 (reading data at step 6)" in said


def test_one_that_waits_for_others_is_not_named():
    beats = {0: beat(1, "computing"), 1: beat(1, "computing"), 2: beat(0, "computing")}
    beats = {rank: replace(b, waiting=rank != 1) for rank, b in beats.items()}
    assert "wait for rank 1 (computing at step 1);" in said_of(beats)


def test_at_the_same_step_the_one_that_does_something_else_is_named():
    beats = {0: beat(7, "computing"), 1: beat(7, "saving a checkpoint")}
    assert "wait for rank 1 (saving a checkpoint at step 7)" in said_of(beats)


@pytest.mark.parametrize("offset", [0.0, 86_400.0, -86_400.0])
def test_clocks_of_other_machines_and_words_from_before_do_not_count(offset):
    """Rank 1's machine has another time; it lives to the end, but computes. Rank 2 has died 200 s before."""
    store, time_here = dist.HashStore(), [1000.0]
    shifts = (0.0, offset, offset)
    here, other, dead = (
        Watchdog(rank, 3, timeout_seconds=600.0, store=store, clock=lambda shift=shift: time_here[0] + shift) for rank, shift in enumerate(shifts)
    )
    sentence = None
    here.progress(5, "saving a checkpoint")
    for second in range(0, 700, 10):
        time_here[0] = 1000.0 + second
        other.progress(5, "computing")  # of its own time: only its sign of life counts
        assert other.look() is None
        if second < 400:
            assert dead.look() is None
        sentence = here.look()
        if sentence is not None:
            break
    assert sentence is not None and 600 < second <= 620
    assert "no sign of life from rank 2 (silent for at least" in sentence and "rank 1" not in sentence and "rank 0" not in sentence


def test_nobody_reads_while_things_move():
    class Store:
        def set(self, key: str, value: str) -> None:
            self.written = key

        def check(self, keys: list[str]) -> bool:
            raise AssertionError("read")

    time_here, store = [0.0], Store()
    watchdog = Watchdog(0, 2, timeout_seconds=600.0, store=store, clock=lambda: time_here[0])
    for step in range(100):
        time_here[0] += 60.0
        assert watchdog.look() is None and store.written == "watchdog/0"
        watchdog.progress(step, "computing")


def test_progress_keeps_it_quiet_and_silence_does_not():
    store, said, told = dist.HashStore(), [], threading.Event()

    def give_up(sentence: str) -> None:
        said.append(sentence)
        told.set()

    watchdog = Watchdog(0, 2, timeout_seconds=1.5, store=store, give_up=give_up)
    watchdog.start()
    for step in range(6):
        time.sleep(0.4)
        watchdog.progress(step, "computing")
    assert not said
    assert told.wait(10)
    watchdog.stop()
    assert "no sign of life from rank 1" in said[0]
