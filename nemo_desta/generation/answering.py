"""From an engine into the journal: batch after batch, several in flight where the engine wants them, with progress."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nemo_desta.generation.engines.base import Completion, Engine
from nemo_desta.generation.journal import Journal
from nemo_desta.generation.plan import TargetRow

logger = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 30.0  # of progress, where there is no terminal to draw a bar on


@dataclass(frozen=True)
class Work:
    """What a process did itself, without what an earlier one had written.

    Attributes:
        rows: prompts answered.
        output_tokens: of their answers.
        engine_seconds: spent waiting for the engine.
        seconds: by the clock.
    """

    rows: int = 0
    output_tokens: int = 0
    engine_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        both = self.engine_seconds + other.engine_seconds, self.seconds + other.seconds
        return Work(self.rows + other.rows, self.output_tokens + other.output_tokens, *both)


class RowsProgress:
    """Rows, rows/s and the time left: a bar in a terminal, elsewhere a line in the log now and then.

    Args:
        total: rows in all.
        done: rows that were there before.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.total, self.done, self._before = total, done, done
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> "RowsProgress":
        self._bar.start()
        self._task = self._bar.add_task("targets", total=self.total, completed=self.done, rate="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            logger.warning("stopped with %d of %d rows written; the same command goes on from there", self.done, self.total)

    def show(self, done: int, total: int | None = None) -> None:
        """So many rows are there now, of so many."""
        self.done, self.total = done, self.total if total is None else total
        rate = (done - self._before) / max(time.monotonic() - self._started, 1e-6)
        self._bar.update(self._task, completed=done, total=self.total, rate=f"{rate:.1f} rows/s")
        if self._bar.disable and rate > 0 and time.monotonic() - self._logged > LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            left = max(self.total - done, 0) / rate / 60
            logger.info("targets: %d of %d rows, %.1f rows/s, %.1f minutes left", done, self.total, rate, left)


def answer_batches(journal: Journal, batches: Sequence[Sequence[TargetRow]], engine: Engine, on_rows: Callable[[int], None] | None = None) -> Work:
    """Answer every batch that the journal lacks.

    Args:
        on_rows: called with the number of rows of each batch that is answered and safe; where it is given, no progress is shown here.
    """
    journal.open()
    total = sum(map(len, batches))
    if journal.answers or journal.dropped:
        logger.info("going on: %d of %d rows are there (%d incomplete lines dropped)", len(journal.answers), total, journal.dropped)
    if on_rows is not None:
        return _answer(journal, batches, engine, on_rows)
    with RowsProgress(total, len(journal.answers)) as progress:
        return _answer(journal, batches, engine, lambda _: progress.show(len(journal.answers)))


def _answer(journal: Journal, batches: Sequence[Sequence[TargetRow]], engine: Engine, on_rows: Callable[[int], None]) -> Work:
    rows = tokens = 0
    waited, started = 0.0, time.monotonic()
    generated = _generated(batches[journal.done :], engine)
    while True:
        asked = time.monotonic()
        answers = next(generated, None)
        if answers is None:
            return Work(rows, tokens, waited, time.monotonic() - started)
        waited += time.monotonic() - asked
        journal.append(answers)
        rows, tokens = rows + len(answers), tokens + sum(answer.num_tokens for answer in answers)
        on_rows(len(answers))


def _generated(batches: Sequence[Sequence[TargetRow]], engine: Engine) -> Iterator[list[Completion]]:
    """Answers of every batch, in order. Engines that take several at once get them, so that the last long rows of one batch do not hold up the next."""

    def answer(batch: Sequence[TargetRow]) -> list[Completion]:
        return engine.generate([row.text for row in batch], [row.row_id for row in batch])

    if engine.batches_in_flight <= 1:
        yield from map(answer, batches)
        return
    waiting: deque[Future[list[Completion]]] = deque()
    pool = ThreadPoolExecutor(engine.batches_in_flight, thread_name_prefix="batches")
    try:
        for batch in batches:
            waiting.append(pool.submit(answer, batch))
            if len(waiting) >= engine.batches_in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
