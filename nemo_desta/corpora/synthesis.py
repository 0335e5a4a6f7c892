"""Rendering MIDI to audio with a soundfont, reading what a MIDI file plays, and running MMA from its unpacked package.

TinySoundFont (a wheel) does the rendering, so that no synthesiser has to be installed on the system.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_desta.assets import ALTERNATIVES

RENDER_RATE = 32_000  # Hz; twice the corpus rate, so that the synthesiser's plain interpolation leaves no audible aliases below 8 kHz
SOUNDFONT_ASSETS = ("timgm6mb-soundfont", *ALTERNATIVES["timgm6mb-soundfont"])  # the same file in a Debian package and on PyPI
DRUM_CHANNEL = 9
_FADE_SECONDS = 0.15
_MMA_TIMEOUT = 60  # seconds; a chart takes 0.3

KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

# General MIDI programs (0-based) that the corpora name: program -> (instrument, family).
GM_INSTRUMENTS: dict[int, tuple[str, str]] = {
    0: ("acoustic grand piano", "piano"),
    1: ("bright acoustic piano", "piano"),
    2: ("electric grand piano", "piano"),
    3: ("honky-tonk piano", "piano"),
    4: ("electric piano", "piano"),
    5: ("electric piano", "piano"),
    6: ("harpsichord", "piano"),
    8: ("celesta", "chromatic percussion"),
    9: ("glockenspiel", "chromatic percussion"),
    10: ("music box", "chromatic percussion"),
    11: ("vibraphone", "chromatic percussion"),
    12: ("marimba", "chromatic percussion"),
    13: ("xylophone", "chromatic percussion"),
    14: ("tubular bells", "chromatic percussion"),
    16: ("Hammond organ", "organ"),
    17: ("percussive organ", "organ"),
    18: ("rock organ", "organ"),
    19: ("church organ", "organ"),
    21: ("accordion", "accordion"),
    22: ("harmonica", "accordion"),
    23: ("bandoneon", "accordion"),
    24: ("nylon guitar", "guitar"),
    25: ("steel guitar", "guitar"),
    26: ("jazz guitar", "guitar"),
    27: ("clean electric guitar", "guitar"),
    28: ("muted electric guitar", "guitar"),
    29: ("overdriven guitar", "guitar"),
    30: ("distorted guitar", "guitar"),
    105: ("banjo", "guitar"),
    32: ("double bass", "bass"),
    33: ("electric bass", "bass"),
    34: ("picked electric bass", "bass"),
    35: ("fretless bass", "bass"),
    36: ("slap bass", "bass"),
    38: ("synth bass", "bass"),
    39: ("synth bass", "bass"),
    40: ("violin", "strings"),
    41: ("viola", "strings"),
    42: ("cello", "strings"),
    44: ("tremolo strings", "strings"),
    45: ("pizzicato strings", "strings"),
    46: ("harp", "strings"),
    48: ("string ensemble", "strings"),
    49: ("slow string ensemble", "strings"),
    50: ("synth strings", "strings"),
    51: ("synth strings", "strings"),
    110: ("fiddle", "strings"),
    52: ("choir", "voice"),
    53: ("voice", "voice"),
    54: ("synth voice", "voice"),
    56: ("trumpet", "brass"),
    57: ("trombone", "brass"),
    58: ("tuba", "brass"),
    59: ("muted trumpet", "brass"),
    60: ("French horn", "brass"),
    61: ("brass section", "brass"),
    62: ("synth brass", "brass"),
    64: ("soprano saxophone", "woodwind"),
    65: ("alto saxophone", "woodwind"),
    66: ("tenor saxophone", "woodwind"),
    67: ("baritone saxophone", "woodwind"),
    68: ("oboe", "woodwind"),
    69: ("English horn", "woodwind"),
    70: ("bassoon", "woodwind"),
    71: ("clarinet", "woodwind"),
    72: ("piccolo", "woodwind"),
    73: ("flute", "woodwind"),
    74: ("recorder", "woodwind"),
    75: ("pan flute", "woodwind"),
    80: ("square-wave synthesizer", "synth"),
    81: ("sawtooth synthesizer", "synth"),
    87: ("synth lead", "synth"),
    88: ("synth pad", "synth"),
    89: ("synth pad", "synth"),
    90: ("synth pad", "synth"),
    91: ("synth pad", "synth"),
    95: ("synth pad", "synth"),
}


class Note(NamedTuple):
    """One note of a clip."""

    start: float  # seconds
    duration: float  # seconds
    key: int  # MIDI note number
    velocity: int  # 1..127


@dataclass(frozen=True)
class MidiSummary:
    """What a MIDI file plays."""

    programs: tuple[int, ...]  # General MIDI programs that sound, the busiest first; without the drums
    drums: bool
    seconds: float  # until the last note begins


def find_soundfont(corpus_dirs: Mapping[str, Path]) -> Path:
    """The General MIDI soundfont of whichever of `SOUNDFONT_ASSETS` is there.

    Args:
        corpus_dirs: Asset name -> directory.

    Raises:
        ValueError: Neither asset is given, or it holds no soundfont.
    """
    for asset in SOUNDFONT_ASSETS:
        found = sorted(Path(corpus_dirs[asset]).rglob("TimGM6mb.sf2")) if asset in corpus_dirs else []
        if found:
            return found[0]
    raise ValueError(f"no soundfont: one of the assets {SOUNDFONT_ASSETS} is needed (got {sorted(corpus_dirs)}); fetch it with tools/fetch_assets.py")


@lru_cache(maxsize=2)
def _soundfont_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _synth(soundfont: Path):  # type: ignore[no-untyped-def]
    """A fresh synthesiser (0.03 s): nothing of the clip before rings on."""
    try:
        import tinysoundfont
    except ImportError as error:
        raise RuntimeError("rendering music needs the package tinysoundfont: pip install --no-deps tinysoundfont==0.3.7") from error
    synth = tinysoundfont.Synth(samplerate=RENDER_RATE)
    return tinysoundfont, synth, synth.sfload(_soundfont_bytes(str(soundfont)), max_voices=256)


def _finish(stereo: bytes | memoryview, gain_db: float) -> np.ndarray:
    """Mono, faded out, peak at ``gain_db``."""
    mono = np.frombuffer(stereo, dtype=np.float32).reshape(-1, 2).mean(axis=1)
    fade = min(len(mono), int(_FADE_SECONDS * RENDER_RATE))
    mono = mono.copy()
    mono[len(mono) - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    peak = float(np.abs(mono).max()) if len(mono) else 0.0
    return mono * np.float32(10.0 ** (gain_db / 20.0) / peak) if peak > 0.0 else mono


def render_midi(midi: Path, soundfont: Path, seconds: float, gain_db: float) -> tuple[np.ndarray, int]:
    """Render the first seconds of a MIDI file.

    Args:
        midi: Standard MIDI file.
        soundfont: SF2 file.
        seconds: Length of the result.
        gain_db: Peak level, dB relative to full scale.

    Returns:
        Samples ``[T]`` float32 and their rate in Hz: what a `ClipSource` loader returns.
    """
    tinysoundfont, synth, _ = _synth(soundfont)
    synth.program_change(DRUM_CHANNEL, 0, True)
    sequencer = tinysoundfont.Sequencer(synth)
    sequencer.midi_load(str(midi))
    return _finish(synth.generate(int(seconds * RENDER_RATE)), gain_db), RENDER_RATE


def render_notes(program: int | None, notes: Sequence[Note], soundfont: Path, seconds: float, gain_db: float) -> tuple[np.ndarray, int]:
    """Render notes of one instrument.

    Args:
        program: General MIDI program, 0-based; None = the drum kit.
        notes: In any order.
        soundfont: SF2 file.
        seconds: Length of the result.
        gain_db: Peak level, dB relative to full scale.

    Returns:
        Samples ``[T]`` float32 and their rate in Hz.
    """
    _, synth, font = _synth(soundfont)
    if program is None:
        synth.program_select(0, font, 128, 0, True)
    else:
        synth.program_select(0, font, 0, program, False)
    events = sorted([(n.start, 1, n.key, n.velocity) for n in notes] + [(n.start + n.duration, 0, n.key, 0) for n in notes])
    blocks, now, total = [], 0, int(seconds * RENDER_RATE)
    for time, on, key, velocity in events:
        at = min(int(time * RENDER_RATE), total)
        if at > now:
            blocks.append(bytes(synth.generate_simple(at - now)))
            now = at
        synth.noteon(0, key, velocity) if on else synth.noteoff(0, key)
    blocks.append(bytes(synth.generate_simple(total - now)) if total > now else b"")
    return _finish(b"".join(blocks), gain_db), RENDER_RATE


# --- MIDI files -----------------------------------------------------------------------------------------------------------------------


def summarise_midi(path: Path, seconds: float | None = None) -> MidiSummary:
    """Read which instruments sound in a MIDI file.

    Args:
        path: Standard MIDI file.
        seconds: Only notes that begin before this time count; None = all.

    Raises:
        ValueError: The file is no MIDI file or is cut off.
    """
    data = path.read_bytes()
    if data[:4] != b"MThd":
        raise ValueError(f"{path} is no MIDI file: it begins with {data[:4]!r}")
    try:
        division = struct.unpack_from(">H", data, 12)[0]
        tracks = [_track_events(track) for track in _tracks(data)]
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return _summarise(sorted(event for track in tracks for event in track), division, seconds)


def _tracks(data: bytes) -> list[bytes]:
    out, position = [], 14
    while position + 8 <= len(data):
        size = struct.unpack_from(">I", data, position + 4)[0]
        if data[position : position + 4] == b"MTrk":
            out.append(data[position + 8 : position + 8 + size])
        position += 8 + size
    return out


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    while True:
        value, more = value << 7 | data[position] & 0x7F, data[position] & 0x80
        position += 1
        if not more:
            return value, position


def _track_events(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """``(tick, order, kind, a, b)``: tempo (0x51, microseconds a beat), program (0xC0, channel, program), note on (0x90, channel, key)."""
    events, position, tick, status = [], 0, 0, 0
    while position < len(data):
        delta, position = _varint(data, position)
        tick += delta
        if data[position] & 0x80:
            status = data[position]
            position += 1
        if status in (0xF0, 0xF7, 0xFF):
            kind = data[position] if status == 0xFF else 0
            size, position = _varint(data, position + (status == 0xFF))
            if kind == 0x51:
                events.append((tick, 0, 0x51, int.from_bytes(data[position : position + size], "big"), 0))
            position += size
            continue
        if status & 0xF0 == 0xC0:
            events.append((tick, 1, 0xC0, status & 0xF, data[position]))
        elif status & 0xF0 == 0x90 and data[position + 1] > 0:
            events.append((tick, 2, 0x90, status & 0xF, data[position]))
        position += 1 if status & 0xF0 in (0xC0, 0xD0) else 2
    return events


def _summarise(events: list[tuple[int, int, int, int, int]], division: int, seconds: float | None) -> MidiSummary:
    beat, now, last_tick, last_note = 0.5, 0.0, 0, 0.0
    program = dict.fromkeys(range(16), 0)
    count: dict[int, int] = {}
    drums = False
    for tick, _, kind, a, b in events:
        now += (tick - last_tick) / division * beat
        last_tick = tick
        if kind == 0x51:
            beat = a / 1e6
        elif kind == 0xC0:
            program[a] = b
        elif seconds is None or now < seconds:
            last_note = now
            if a == DRUM_CHANNEL:
                drums = True
            else:
                count[program[a]] = count.get(program[a], 0) + 1
    return MidiSummary(tuple(sorted(count, key=lambda p: (-count[p], p))), drums, last_note)


# --- MMA ------------------------------------------------------------------------------------------------------------------------------

MMA_HOME = "usr/share/mma"
_NO_GROOVE = re.compile(r"(?:intro|end|ending|fill|break|coda|ritard)[a-z]{0,2}\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Style:
    """A style file of MMA's library."""

    name: str  # path below the library, without suffix: "stdlib/bossanova"
    grooves: tuple[str, ...]  # without introductions, fills and endings
    beats: int  # in a bar
    time_signature: str  # "4/4"


def read_style(home: Path, name: str) -> Style:
    """Grooves and metre of a style file.

    Args:
        home: ``usr/share/mma`` of the unpacked package.
        name: "stdlib/bossanova".

    Raises:
        ValueError: No such style, or it defines no groove.
    """
    path = home / "lib" / f"{name}.mma"
    if not path.is_file():
        raise ValueError(f"MMA has no style {name!r} below {home / 'lib'}")
    text = path.read_text(encoding="latin-1")
    grooves = re.findall(r"^\s*DefGroove\s+(\S+)", text, re.IGNORECASE | re.MULTILINE)
    grooves = [groove for groove in dict.fromkeys(grooves) if not _NO_GROOVE.search(groove)]
    if not grooves:
        raise ValueError(f"MMA's style {name!r} defines no groove")
    time = re.search(r"^\s*Time\s+(\d+)", text, re.IGNORECASE | re.MULTILINE)
    beats = int(time.group(1)) if time else 4
    signature = re.search(r"^\s*TimeSig\s+(\d+)[ /]+(\d+)", text, re.IGNORECASE | re.MULTILINE)
    return Style(name, tuple(grooves), beats, f"{signature.group(1)}/{signature.group(2)}" if signature else f"{beats}/4")


def run_mma(package: Path, chart: str, midi: Path) -> None:
    """Compile a chart to a MIDI file, with the package's own program under this Python.

    Args:
        package: Root of the unpacked Debian package ``mma``.
        chart: Text of the chart.
        midi: File to write; it appears whole or not at all.

    Raises:
        RuntimeError: MMA refused the chart; the message is MMA's.
    """
    with tempfile.TemporaryDirectory(prefix="mma-") as folder:
        work = Path(folder)
        (work / "song.mma").write_text(chart, encoding="latin-1")
        (work / "mmarc").write_text("")  # an empty start-up file keeps the user's own settings out
        # The program finds its modules and its library through MMA_HOME; -B keeps byte code out of the read-only package.
        environment = {**os.environ, "MMA_HOME": str(package / MMA_HOME), "HOME": folder}
        command = [sys.executable, "-B", str(package / "usr/bin/mma"), "-w", "-i", "mmarc", "-f", "song.mid", "song.mma"]
        result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=_MMA_TIMEOUT, check=False)
        if result.returncode or not (work / "song.mid").is_file():
            raise RuntimeError(f"MMA failed with code {result.returncode}: {(result.stdout + result.stderr).strip()[-300:]}")
        part = midi.with_name(midi.name + ".part")
        part.write_bytes((work / "song.mid").read_bytes())
        part.replace(midi)
