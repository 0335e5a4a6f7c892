"""A process pool over a stream: results in order, with a bounded number of items on the way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def _run(function: Callable[[T], R], part: list[T]) -> list[R]:
    return [function(item) for item in part]


def parallel_map(function: Callable[[T], R], items: Iterable[T], num_jobs: int, *, chunk: int = 32) -> Iterator[R]:
    """``map`` in several processes, lazily.

    Args:
        function: picklable.
        num_jobs: processes; 1 = in this one.
        chunk: items a task.

    Raises:
        OSError: one of the processes was killed.
    """
    if num_jobs <= 1:
        yield from map(function, items)
        return
    stream = iter(items)
    waiting: deque[Future[list[R]]] = deque()
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("fork")) as pool:
        try:
            while True:
                while len(waiting) < 4 * num_jobs and (part := list(islice(stream, chunk))):
                    waiting.append(pool.submit(_run, function, part))
                if not waiting:
                    return
                yield from _result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


def _result(future: Future[list[R]]) -> list[R]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise killed_worker() from error


def killed_worker() -> OSError:
    """What to say when a process of a pool has died."""
    return OSError("a process of the pool was killed (out of memory?): take fewer --num-jobs, and run the same command again")
