"""How fast targets were written, and what that means for five million rows."""

import logging
from collections.abc import Mapping
from typing import Any

from nemo_desta.generation.answering import Work

logger = logging.getLogger(__name__)

FILE = "throughput.json"
FULL_SIZE = 5_000_000  # rows of the paper's set, rounded
MANY = 8  # engines of the extrapolation: one a GPU of a machine with eight


def throughput(work: Work, workers: int, seconds: float) -> dict[str, Any]:
    """Rates of a run or of what a process added to it.

    Args:
        work: of all workers together.
        workers: engines side by side.
        seconds: by the clock from the first engine's readiness to the last answer.

    Returns:
        ``rows``, ``output_tokens``, ``seconds``, ``workers``, ``rows_per_s``, ``output_tokens_per_s``, ``engine_utilisation`` (share of the workers'
        time that an engine was answering, 0..1) and ``extrapolation``: hours for `FULL_SIZE` rows on so many workers, on `MANY`, and on one. The
        extrapolation takes rows like these, the same hardware and workers that do not slow each other down. Empty where no row was answered.
    """
    if not work.rows or seconds <= 0:
        return {}
    rate = work.rows / seconds
    one = FULL_SIZE / (rate / workers) / 3600
    return {
        "rows": work.rows,
        "output_tokens": work.output_tokens,
        "seconds": round(seconds, 2),
        "workers": workers,
        "rows_per_s": round(rate, 2),
        "output_tokens_per_s": round(work.output_tokens / seconds, 1),
        "engine_utilisation": round(min(work.engine_seconds / (workers * seconds), 1.0), 3),
        "extrapolation": {
            "rows": FULL_SIZE,
            "output_tokens": round(FULL_SIZE * work.output_tokens / work.rows),
            "hours_one_worker": round(one, 1),
            f"hours_{MANY}_workers": round(one / MANY, 1),
            "hours_these_workers": round(one / workers, 1),
        },
    }


def log_throughput(report: Mapping[str, Any]) -> None:
    """Say it in two lines; nothing where there is nothing to say."""
    if not report:
        return
    logger.info(
        "throughput: %(rows)d rows in %(seconds).0f s on %(workers)d workers: %(rows_per_s).1f rows/s, %(output_tokens_per_s).0f output tokens/s, engines busy"
        " %(busy).0f %% of the time",
        {**report, "busy": 100 * report["engine_utilisation"]},
    )
    ahead = report["extrapolation"]
    logger.info(
        "at this rate %d rows take %.1f hours on these workers, %.1f on %d", ahead["rows"], ahead["hours_these_workers"], ahead[f"hours_{MANY}_workers"], MANY
    )
