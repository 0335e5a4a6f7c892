"""Ten held-out clips to listen to, drawn at random, not chosen for their answers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse.cut import MonoCut

from nemo_desta.evaluation.audio import read_clip
from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""One line of ``eval/scored.jsonl``."""


def draw_clips(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows with audio: one random item of each attribute in turn, no clip twice."""
    rng = np.random.default_rng(seed)
    by_track: dict[str, list[Row]] = {}
    for row in rows:
        if row["condition"] == WITH_AUDIO:
            by_track.setdefault(row["track"], []).append(row)
    queues = [[members[i] for i in rng.permutation(len(members))] for members in by_track.values()]
    drawn: list[Row] = []
    heard: set[str] = set()
    while len(drawn) < count and any(queues):
        for queue in queues:
            while queue and queue[-1]["cut"] in heard:
                queue.pop()
            if queue and len(drawn) < count:
                drawn.append(queue.pop())
                heard.add(drawn[-1]["cut"])
    return drawn


def write_clips(rows: Sequence[Row], find_cut: Callable[[str], MonoCut | None], folder: Path, *, count: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """Copy the drawn clips beside the page and say what was asked, answered and right.

    Args:
        rows: all scored rows.
        find_cut: cut id -> cut; None where it is gone (its card then has no player).
        folder: gets ``<nn>.flac`` (mono, the clip's own rate).

    Returns:
        One dict a clip, ready for the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.flac"):
        old.unlink()
    answers = {(row["item"], row["condition"]): row for row in rows}
    cards = []
    problems: list[str] = []
    for number, row in enumerate(draw_clips(rows, count, seed), start=1):
        cut = find_cut(row["cut"])
        file = copy_clip(cut, folder / f"{number:02d}.flac", problems) if cut is not None else None
        cards.append(
            {
                **{key: row[key] for key in ("item", "track", "question", "gold", "response", "parsed", "score", "cut")},
                "audio": f"{folder.name}/{file.name}" if file else None,
                "seconds": cut.duration if cut is not None else None,
                "text": cut.supervisions[0].text if cut is not None and cut.supervisions else None,
                "dataset": (cut.custom or {}).get("dataset", "") if cut is not None else row.get("dataset", ""),
                "licence": (cut.custom or {}).get("license", "") if cut is not None else "",
                "attribution": (cut.custom or {}).get("attribution", "") if cut is not None else "",
                "shuffled": answers.get((row["item"], SHUFFLED)),
                "no_audio": answers.get((row["item"], NO_AUDIO)),
            }
        )
    warn_of_silent(problems)
    return cards


def copy_clip(audio: Any, path: Path, problems: list[str]) -> Path | None:
    """Write a clip (cut or path) as a 16-bit file of one channel at its own rate; None, and a line in `problems`, where it cannot be decoded."""
    try:
        samples, rate = read_clip(audio)
    except ValueError as error:
        problems.append(str(error))
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(samples, -1, 1), rate, subtype="PCM_16")
    return path


def warn_of_silent(problems: Sequence[str]) -> None:
    """One line for all the clips that a page cannot play: a data set without its audio has none of them."""
    if problems:
        logger.warning("%d clips cannot be played in the report, first: %s", len(problems), problems[0])
