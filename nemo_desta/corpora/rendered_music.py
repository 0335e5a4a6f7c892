"""Backing tracks rendered from chord charts with MMA and a General MIDI soundfont: genre, tempo, key, metre and instruments are exact.

A style file of MMA is one group, so the grooves of a test style were never heard in training, but its genre was (in other styles).
Tempo, key and chords are drawn without regard to the genre: none of them gives another away.
"""

import hashlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.assets import PACKAGES
from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.sound_classes import package_root
from nemo_desta.corpora.splits import stratified_test_groups
from nemo_desta.corpora.synthesis import GM_INSTRUMENTS, KEYS, MMA_HOME, Style, find_soundfont, read_style, render_midi, run_mma, summarise_midi

if TYPE_CHECKING:
    from lhotse import CutSet

logger = logging.getLogger(__name__)

# Styles of MMA's library by genre. Left out: drum-only styles (no key) and styles whose name fits two genres.
_STYLES = {
    "jazz": {
        "stdlib": "swing bebop bigband easyswing mellowjazz modernjazz jazzcombo nitejazz descendingjazz",
        "yamaha": "jazzswing jazztrio jazzbasie jazzbouncy",
        "casio": "jazzcombo swing middlebigband",
    },
    "bossa nova": {"stdlib": "bossanova", "kara": "kbossa", "yamaha": "jazzbossa"},
    "tango": {"stdlib": "tango lighttango"},
    "waltz": {"stdlib": "waltz fastwaltz vienesewaltz frenchwaltz broadwaywaltz countrywaltz", "casio": "popwaltz"},
    "rock": {
        "stdlib": "basicrock 60srock 50srock softrock bubblerock",
        "casio": "rock1 rock2 heavymetal digitalrock poprock1",
        "yamaha": "w-rock",
        "kara": "K50s_rock",
    },
    "blues": {"stdlib": "blues slowblues fastblues blues68 blues128", "casio": "blues"},
    "polka": {"stdlib": "polka", "casio": "polka polkafox poppolka"},
    "funk": {"stdlib": "bvfunk", "casio": "funk1 funk2 discosoul", "kara": "Kfunk1"},
    "country": {"stdlib": "bluegrass countryswing slowcountry hillcountry westernswing", "yamaha": "jazzcountry western"},
    "electronic dance": {"casio": "house techno trance1 trance2 rave dance1 dance2", "alexis": "teamtechno"},
    "latin": {"stdlib": "salsa mambo merengue chacha rhumba samba son", "yamaha": "salsa1 mambo"},
    "march": {"stdlib": "march 68march bwmarch dixiemarch", "casio": "march1 germanmarch"},
    "hip hop": {"alexis": "hiphop", "casio": "hip-hop triphop"},
}
GENRES: dict[str, tuple[str, ...]] = {
    genre: tuple(f"{folder}/{style}" for folder, names in folders.items() for style in names.split()) for genre, folders in _STYLES.items()
}

TEMPI = {"slow": (62, 84), "medium": (98, 122), "fast": (140, 178)}  # beats a minute, with gaps between the bands
_MAJOR = ("C Am F G", "C F G C", "C Em F G7", "C G Am F", "C Dm7 G7 C", "C F C G7", "CM7 Am7 Dm7 G7", "C C7 F Fm")
_MINOR = ("Am F G Am", "Am Dm E7 Am", "Am G F E7", "Am Em F C", "Am7 Dm7 Bm7b5 E7", "Am C Dm E7")
_GAINS_DB = (-15.0, -9.0, -3.0)  # peak levels


@dataclass(frozen=True)
class Piece:
    """One clip to render."""

    id: str
    genre: str
    style: Style
    groove: str
    bpm: int
    tempo: str
    tonic: int  # semitones above C
    mode: str  # major | minor
    chords: tuple[str, ...]  # one a bar, in C major or A minor
    seconds: float
    gain_db: float
    seed: int

    @property
    def key(self) -> str:
        """Name of the key, for example "Eb major"."""
        return f"{KEYS[self.tonic]} {self.mode}"

    def chart(self) -> str:
        """The piece as a chart of MMA."""
        shift = (self.tonic - (0 if self.mode == "major" else 9) + 6) % 12 - 6
        head = [f"RndSeed {self.seed}", f"Tempo {self.bpm}", f"Transpose {shift}", f"Use {self.style.name}", f"Groove {self.groove}"]
        return "\n".join([*head, *(f"{bar} {chord}" for bar, chord in enumerate(self.chords, start=1))]) + "\n"


def plan_pieces(home: Path, *, clips: int, genres: Sequence[str] | None, min_seconds: float, max_seconds: float, seed: int) -> list[Piece]:
    """Draw the pieces: the same number for every genre, its styles in turn.

    Args:
        home: ``usr/share/mma`` of the unpacked package.
        clips: Number of pieces in all.
        genres: Some of `GENRES`; None = all.
        min_seconds: Shortest piece.
        max_seconds: Longest piece.
        seed: Of the draw.

    Raises:
        ValueError: An unknown genre.
    """
    names = list(genres or GENRES)
    unknown = [name for name in names if name not in GENRES]
    if unknown:
        raise ValueError(f"unknown genres {unknown}; known are {sorted(GENRES)}")
    styles = {genre: [read_style(home, style) for style in GENRES[genre]] for genre in names}
    pieces = []
    for index in range(clips):
        genre, turn = names[index % len(names)], index // len(names)
        style = styles[genre][turn % len(styles[genre])]
        rng = random.Random(f"rendered_music:{seed}:{genre}:{turn}")
        pieces.append(_draw(rng, f"{genre}-{turn:03d}", genre, style, turn // len(styles[genre]), rng.uniform(min_seconds, max_seconds)))
    return pieces


def _draw(rng: random.Random, piece_id: str, genre: str, style: Style, turn: int, seconds: float) -> Piece:
    tempo = rng.choice(list(TEMPI))
    bpm, mode = rng.randint(*TEMPI[tempo]), rng.choice(("major", "minor"))
    bars = int(seconds * bpm / 60 / style.beats) + 2
    progression = rng.choice(_MAJOR if mode == "major" else _MINOR).split()
    groove = style.grooves[(turn + rng.randrange(len(style.grooves))) % len(style.grooves)]
    chords = tuple(progression[bar % len(progression)] for bar in range(bars))
    return Piece(piece_id, genre, style, groove, bpm, tempo, rng.randrange(12), mode, chords, round(seconds, 2), rng.choice(_GAINS_DB), rng.randrange(1, 10**6))


def _midi_name(piece: Piece) -> str:
    """File name by content: another length, another chord or another release of MMA is compiled anew."""
    content = f"{PACKAGES['mma'].sha256}\n{piece.chart()}"
    return f"{piece.id}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.mid"


def _compile(package: Path, folder: Path, pieces: Sequence[Piece], num_jobs: int) -> Iterator[tuple[Piece, Path | None]]:
    """MIDI file of each piece (kept in ``folder`` and not made again), or None where MMA refuses it."""

    def one(piece: Piece) -> tuple[Piece, Path | None]:
        midi = folder / _midi_name(piece)
        try:
            if not midi.is_file():
                run_mma(package, piece.chart(), midi)
        except RuntimeError as error:
            logger.warning("rendered_music: left out %s (%s): %s", piece.id, piece.style.name, error)
            return piece, None
        return piece, midi

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=max(1, num_jobs)) as pool:  # each thread waits for a process of MMA
        yield from pool.map(one, pieces)


def _instruments(midi: Path, seconds: float) -> dict[str, str]:
    """Names of the instruments that sound, the busiest first."""
    summary = summarise_midi(midi, seconds)
    known = [GM_INSTRUMENTS[program][0] for program in summary.programs if program in GM_INSTRUMENTS]
    names = list(dict.fromkeys([*known[:4], *(["drums"] if summary.drums else [])]))
    return {"instruments": ", ".join(names), "lead_instrument": names[0]} if names else {}


def _sources(package: Path, soundfont: Path, folder: Path, pieces: Sequence[Piece], settings: BuildSettings) -> Iterator[ClipSource]:
    styles = {f"style/{piece.style.name}": piece.genre for piece in pieces}
    share = max(settings.test_fraction, 0.15) if settings.test_fraction else 0.0
    test = stratified_test_groups(styles, test_fraction=share, salt=f"rendered_music:{settings.seed}")
    failed = 0
    for piece, midi in _compile(package, folder, pieces, settings.num_jobs):
        failed += midi is None
        if failed > max(1.0, settings.max_bad_fraction * len(pieces)):
            raise ValueError(f"MMA refused {failed} of {len(pieces)} charts, more than max_bad_fraction={settings.max_bad_fraction}; the log names them")
        if midi is None:
            continue
        attributes = {
            "genre": piece.genre,
            "tempo_bpm": piece.bpm,
            "tempo": piece.tempo,
            "key": piece.key,
            "mode": piece.mode,
            "time_signature": piece.style.time_signature,
            "chords": " ".join(piece.chords[:4]),
            **_instruments(midi, piece.seconds),
        }
        group = f"style/{piece.style.name}"
        yield ClipSource(
            id=piece.id,
            audio=partial(render_midi, midi, soundfont, piece.seconds, piece.gain_db),
            group=group,
            domain="music",
            attributes=attributes,
            licence="GPL-2.0-or-later",
            attribution="rendered with MMA styles by Bob van der Poel and contributors, and the TimGM6mb soundfont by Tim Brechbill",
            split="test" if group in test else "train",
            origin=f"mma:{piece.style.name}#{piece.groove} {piece.bpm} bpm {piece.key} {piece.seconds} s {piece.gain_db} dB seed {piece.seed}",
        )


def prepare_rendered_music(
    corpus_dirs: Mapping[str, Path],
    output_dir: str | Path,
    *,
    settings: BuildSettings,
    clips: int = 312,
    genres: Sequence[str] | None = None,
    min_seconds: float = 8.0,
    max_seconds: float = 12.0,
) -> "CutSet":
    """Render the corpus.

    Args:
        corpus_dirs: Directories of the assets ``mma`` and ``timgm6mb-soundfont`` (or ``soundfont-wheel``).
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.
        clips: Number of clips in all, evenly over the genres.
        genres: Some of `GENRES`; None = all 13.
        min_seconds: Shortest clip.
        max_seconds: Longest clip.

    Returns:
        Clips with ``genre``, ``tempo``, ``tempo_bpm``, ``key``, ``mode``, ``time_signature``, ``chords``, ``instruments`` and ``lead_instrument``.

    Raises:
        ValueError: An asset is missing, a genre is unknown, or MMA refuses more than ``max_bad_fraction`` of the charts.
        RuntimeError: The synthesiser package is not installed.
    """
    home = package_root(corpus_dirs, "mma", MMA_HOME)
    soundfont = find_soundfont(corpus_dirs)
    pieces = plan_pieces(home, clips=clips, genres=genres, min_seconds=min_seconds, max_seconds=max_seconds, seed=settings.seed)
    folder = Path(output_dir).resolve() / "rendered_music" / "midi"
    return build_cuts("rendered_music", _sources(Path(corpus_dirs["mma"]), soundfont, folder, pieces, settings), output_dir, settings)
