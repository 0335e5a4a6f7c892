"""Scalars of a training run, from TensorBoard's event files."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

Curve = list[tuple[int, float]]
"""(step, value), by step."""


def read_curve(train_dir: Path, tag: str = "train/loss") -> Curve:
    """One scalar over all event files below a directory.

    A resumed run writes further files and repeats the steps since its last checkpoint: of a step logged twice the later record counts.

    Args:
        train_dir: searched recursively.
        tag: name of the scalar.

    Returns:
        The curve; empty where no event file holds the tag.
    """
    folders = sorted({path.parent for path in train_dir.rglob("events.out.tfevents*")}) if train_dir.is_dir() else []
    if not folders:
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    latest: dict[int, tuple[float, float]] = {}
    for folder in folders:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: keep all
        events.Reload()
        if tag not in events.Tags()["scalars"]:
            continue
        for event in events.Scalars(tag):
            if event.step not in latest or event.wall_time >= latest[event.step][0]:
                latest[event.step] = (event.wall_time, event.value)
    return [(step, latest[step][1]) for step in sorted(latest)]


def smooth(values: list[float], span: float) -> list[float]:
    """Exponential moving average over about `span` values, unbiased at the start."""
    keep = 1 - 2 / (max(span, 1.0) + 1)
    total = weight = 0.0
    smoothed = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smoothed.append(total / weight)
    return smoothed
