"""Single instruments rendered from a General MIDI soundfont: notes, scales, arpeggios, chords and short melodies over pitch and loudness.

Two things are held out for the test split: some instruments of the larger families (their clips carry the family only, because nobody could
know the name of an instrument never heard) and some melodies (played by the instruments that training knows).
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.synthesis import GM_INSTRUMENTS, KEYS, Note, find_soundfont, render_notes

if TYPE_CHECKING:
    from lhotse import CutSet

# Program -> (lowest, highest) MIDI note of its comfortable range.
RANGES: dict[int, tuple[int, int]] = {
    0: (36, 88), 3: (40, 84), 4: (40, 84), 6: (40, 84),
    9: (72, 100), 11: (53, 84), 12: (48, 84), 13: (65, 96), 14: (55, 76),
    16: (36, 84), 18: (36, 84), 19: (36, 84),
    21: (48, 84), 22: (55, 84),
    24: (40, 79), 25: (40, 79), 27: (40, 79), 29: (40, 76), 30: (40, 76), 105: (48, 79),
    32: (28, 52), 33: (28, 52), 36: (28, 52),
    40: (55, 91), 41: (48, 79), 42: (36, 69), 45: (40, 84), 46: (36, 91), 48: (40, 84),
    52: (48, 79),
    56: (55, 82), 57: (40, 70), 58: (28, 55), 60: (41, 74), 61: (48, 79),
    65: (50, 77), 68: (58, 86), 70: (36, 69), 71: (50, 86), 73: (60, 93), 75: (60, 88), 74: (60, 88),
    80: (48, 84), 81: (48, 84), 88: (48, 79),
}  # fmt: skip
HELD_OUT = frozenset({6, 14, 18, 25, 36, 41, 57, 70, 75, 88})  # test-only programs; every family that has one keeps others for training
POLYPHONIC = frozenset({"piano", "organ", "accordion", "guitar", "chromatic percussion", "synth", "voice"})
TRAIN_MELODIES, TEST_MELODIES = 60, 12
_KINDS = ("single notes", "scale", "arpeggio", "melody", "chords", "melody")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_LEVELS = (("soft", 50, -18.0), ("medium", 85, -9.0), ("strong", 115, -3.0))  # touch, velocity, peak dB
_DRUM_PATTERNS = 24  # drum-kit clips in proportion to 240 others


@dataclass(frozen=True)
class Phrase:
    """What is played, before an instrument is chosen: scale degrees, so that the same phrase fits every range."""

    id: str
    kind: str
    mode: str
    steps: tuple[tuple[float, float, tuple[int, ...]], ...]  # (start in beats, length in beats, scale degrees)
    beat: float  # seconds


def phrase(index: int, *, test: bool, seed: int) -> Phrase:
    """The ``index``-th phrase of a split; training and test phrases come from different draws."""
    name = f"{'test' if test else 'train'}-{index:02d}"
    rng = random.Random(f"rendered_instruments:{seed}:{name}")
    kind, mode = _KINDS[index % len(_KINDS)], rng.choice(("major", "minor"))
    beat = rng.choice((0.3, 0.4, 0.5, 0.65))
    return Phrase(name, kind, mode, tuple(_steps(kind, rng)), beat)


def _steps(kind: str, rng: random.Random) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    if kind == "scale":
        degrees = [*range(8)] if rng.random() < 0.5 else [*range(7, -1, -1)]
        yield from ((float(i), 0.95, (d,)) for i, d in enumerate(degrees))
    elif kind == "arpeggio":
        pattern = rng.choice(((0, 2, 4, 7), (0, 4, 2, 4), (7, 4, 2, 0)))
        root = rng.choice((0, 3, 4))
        yield from ((i * 0.5, 0.6, (root + pattern[i % 4],)) for i in range(12))
    elif kind == "chords":
        roots = rng.sample((0, 3, 4, 5, 1), 4)
        yield from ((i * 2.0, 1.9, (r, r + 2, r + 4)) for i, r in enumerate(roots))
    elif kind == "single notes":
        yield from ((i * 2.5, 2.3, (rng.randrange(8),)) for i in range(rng.choice((2, 3))))
    else:
        at, degree = 0.0, rng.randrange(5)
        while at < 8.0:
            length = rng.choice((0.5, 0.5, 1.0, 1.0, 1.5, 2.0))
            yield (at, length * 0.95, (degree,))
            at, degree = at + length, max(0, min(9, degree + rng.choice((-3, -2, -1, -1, 1, 1, 2, 3))))


def realise(piece: Phrase, program: int, rng: random.Random) -> tuple[tuple[Note, ...], dict[str, str], float]:
    """Notes of a phrase on an instrument.

    Args:
        piece: The phrase.
        program: General MIDI program of `RANGES`.
        rng: Chooses tonic, octave and touch.

    Returns:
        The notes, the attributes that follow from the choices, and the peak level in dB.
    """
    low, high = RANGES[program]
    scale, family = _SCALES[piece.mode], GM_INSTRUMENTS[program][1]
    tonic = rng.randint(low, max(low, high - 17))
    touch, velocity, gain = rng.choice(_LEVELS)
    notes = []
    for start, length, degrees in piece.steps:
        chosen = degrees if family in POLYPHONIC else degrees[:1]
        for degree in chosen:
            key = tonic + 12 * (degree // 7) + scale[degree % 7]
            while key > high + 5:
                key -= 12
            notes.append(Note(start * piece.beat, length * piece.beat, key, max(1, min(127, velocity + rng.randint(-8, 8)))))
    kind = "single notes" if piece.kind == "chords" and family not in POLYPHONIC else piece.kind
    attributes = {"playing": kind, "touch": touch, "register": "low" if tonic < 48 else "middle" if tonic < 66 else "high"}
    if kind in ("scale", "arpeggio", "melody"):
        attributes |= {"key": f"{KEYS[tonic % 12]} {piece.mode}", "mode": piece.mode}
    return tuple(notes), attributes, gain


def _source(program: int, piece: Phrase, soundfont: Path, test: bool, seed: int) -> ClipSource:
    instrument, family = GM_INSTRUMENTS[program]
    notes, attributes, gain = realise(piece, program, random.Random(f"rendered_instruments:{seed}:{program}:{piece.id}"))
    held_out = program in HELD_OUT
    seconds = round(min(max(n.start + n.duration for n in notes) + 0.6, 9.0), 2)
    name = {"instrument_family": family, "gm_program": program + 1, **({} if held_out else {"instrument": instrument})}
    return ClipSource(
        id=f"{program + 1:03d}-{piece.id}",
        audio=partial(render_notes, program, notes, soundfont, seconds, gain),
        group=f"program/{program + 1}/{piece.id}" if held_out else f"phrase/{piece.id}",
        domain="music",
        attributes=name | attributes,
        licence="GPL-2.0-or-later",
        attribution="rendered with the TimGM6mb soundfont by Tim Brechbill",
        split="test" if test else "train",
        origin=f"timgm6mb-soundfont:program {program + 1}, phrase {piece.id}, seed {seed}",
    )


def _drum_source(index: int, soundfont: Path, test: bool, seed: int) -> ClipSource:
    """A drum pattern: kick, snare and cymbals of the General MIDI kit on a grid of sixteenth notes."""
    rng = random.Random(f"rendered_instruments:{seed}:drums:{index}")
    beat, (touch, velocity, gain) = rng.choice((0.36, 0.48, 0.6, 0.75)), rng.choice(_LEVELS)
    hat, kick, snare = rng.choice((42, 46, 51)), {0, 8, *rng.sample(range(16), 2)}, {4, 12, *rng.sample(range(16), rng.randrange(2))}
    hits = [(s, key) for bar in (0, 16) for s in range(16) for key, on in ((36, s in kick), (38, s in snare), (hat, s % 2 == 0)) if on for s in (s + bar,)]
    notes = tuple(Note(s * beat / 4, 0.1, key, max(1, min(127, velocity + rng.randint(-10, 10)))) for s, key in hits)
    return ClipSource(
        id=f"drums-{index:02d}",
        audio=partial(render_notes, None, notes, soundfont, round(8 * beat + 0.6, 2), gain),
        group=f"drums/{index}",
        domain="music",
        attributes={"instrument": "drum kit", "instrument_family": "percussion", "playing": "rhythm", "touch": touch},
        licence="GPL-2.0-or-later",
        attribution="rendered with the TimGM6mb soundfont by Tim Brechbill",
        split="test" if test else "train",
        origin=f"timgm6mb-soundfont:drum kit, pattern {index}, seed {seed}",
    )


def instrument_sources(soundfont: Path, *, clips: int, seed: int) -> list[ClipSource]:
    """Clips of all instruments in turn; every fifth clip of a known instrument plays a test phrase.

    Args:
        soundfont: SF2 file.
        clips: Number of clips in all.
        seed: Of phrases, tonics and touches.
    """
    drums = max(2, round(clips * _DRUM_PATTERNS / 264))
    programs = sorted(RANGES)
    out = []
    for index in range(max(0, clips - drums)):
        program, turn = programs[index % len(programs)], index // len(programs)
        held_out = program in HELD_OUT
        test = held_out or (turn + index) % 5 == 4
        # A held-out program plays test phrases only; 7 is prime to both counts, so the instruments do not march in step.
        number = (turn * 7 + index) % (TEST_MELODIES if test else TRAIN_MELODIES)
        out.append(_source(program, phrase(number, test=test, seed=seed), soundfont, test, seed))
    unique = {source.id: source for source in out}
    return [*unique.values(), *(_drum_source(i, soundfont, i % 5 == 4, seed) for i in range(drums))]


def prepare_rendered_instruments(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings, clips: int = 264) -> "CutSet":
    """Render the corpus.

    Args:
        corpus_dirs: Directory of the asset ``timgm6mb-soundfont`` or ``soundfont-wheel``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.
        clips: Number of clips in all (45 instruments and the drum kit in turn).

    Returns:
        Clips with ``instrument_family``, ``instrument`` (not for held-out ones), ``playing``, ``touch``, ``register`` and, where there is one, ``key``.

    Raises:
        ValueError: The asset is missing.
        RuntimeError: The synthesiser package is not installed.
    """
    soundfont = find_soundfont(corpus_dirs)
    return build_cuts("rendered_instruments", instrument_sources(soundfont, clips=clips, seed=settings.seed), output_dir, settings)
