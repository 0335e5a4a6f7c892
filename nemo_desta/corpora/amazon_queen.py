"""Flight of the Amazon Queen: acted English dialogue of an adventure game (Debian package ``flight-of-the-amazon-queen``).

All files of the game are members of one container, ``queen.1c``. All numbers are big-endian:

* container: ``QTBL``, 5 bytes version, 4 bytes flags, u16 number of members, then per member 12 bytes name, u8 bundle, u32 offset, u32 size;
* ``*.DOG`` is a dialogue: after 20 bytes come i16 number of levels, i16 unused, i16 dialogue number, i16 number of Joe's sentences, i16 number
  of the partner's sentences; a u16 at 22 is the position of the partner's sentences; Joe's begin at 32 + 96 * levels. A sentence is u16 unused,
  u16 id, u8 length, text, padding to a multiple of 4. Stage directions (``*AA``, ``*12``, ``*XY05(120,99)``) divide it into segments;
* ``*.SB`` is the MP3 of one segment; its name is dialogue (2 places), sentence (4, hexadecimal), J (Joe) or P (partner), and the segment's number from 1.

The layout was learnt from the ScummVM project's description of the game's files in its source (engines/queen/talk.cpp); this reader was written
from the layout. Lines of cut scenes have another naming and are not read.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.audio import read_member
from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE = "flight-of-the-amazon-queen"
_CONTAINER = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
_LICENCE = "Flight-of-the-Amazon-Queen-Freeware"
_ATTRIBUTION = "Flight of the Amazon Queen, (C) 1995 John Passfield and Steven Stamatiadis; converted clips"
# Heard in the voice (median pitch 194-243 Hz) and known from the plot; all other characters are men.
FEMALE = frozenset({"faye", "tam", "witch", "sec", "oracle", "prin", "lola", "naomi", "showeram"})
# Held out by design: three women and three men, a tenth of the clips. A hash could take Joe, who speaks a third of all lines.
TEST_CHARACTERS = ("oracle", "naomi", "lola", "henry", "bud", "ian")
_STAGE_DIRECTION = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|[A-Z]{2}|\d\d)?")
_NOISE = re.compile(r"<[^>]*>")  # <gulp>, <sigh>: heard, but not words


@dataclass(frozen=True)
class Line:
    """A spoken segment: its member's name, the words, and who speaks."""

    member: str
    text: str
    character: str


class Container:
    """Member table of ``queen.1c``; the file itself stays on disk.

    Raises:
        ValueError: The file is not such a container.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as f:
            head = f.read(15)
            if len(head) < 15 or head[:4] != b"QTBL":
                raise ValueError(f"{path} is not a game container: it begins with {head[:4]!r}, expected b'QTBL'")
            count = struct.unpack(">H", head[13:15])[0]
            table = f.read(21 * count)
        if len(table) != 21 * count:
            raise ValueError(f"{path} ends inside its table of {count} members; unpack the package again")
        records = (struct.unpack(">12sxII", table[i : i + 21]) for i in range(0, len(table), 21))
        self.members = {name.split(b"\0")[0].decode("latin-1"): (offset, size) for name, offset, size in records}

    def read(self, name: str) -> bytes:
        """Content of a member."""
        return read_member(self.path, *self.members[name])


def _sentences(data: bytes, position: int, count: int) -> Iterator[tuple[int, str]]:
    """``(id, text)`` of a run of sentences."""
    for _ in range(count):
        identifier, length = struct.unpack_from(">HB", data, position + 2)
        start = position + 5
        yield identifier, data[start : start + length].decode("cp437")
        position = -(-(start + length) // 4) * 4


def read_dialogue(data: bytes) -> list[tuple[str, str, str]]:
    """Segments of a dialogue file.

    Args:
        data: Content of a ``.DOG`` member.

    Returns:
        ``(member name of the recording, text, "J" or "P")``, also of segments that have no recording.
    """
    body = data[20:]
    levels, _, number, of_joe, of_partner = struct.unpack_from(">5h", body, 0)
    partner_at = struct.unpack_from(">H", body, 22)[0]
    segments = []
    for who, position, count in (("J", 32 + 96 * abs(levels), of_joe), ("P", partner_at, of_partner)):
        for identifier, sentence in _sentences(body, position, count):
            prefix = f"{number:2d}{identifier:4x}{who}".replace(" ", "0").upper()
            parts = [part.strip() for part in _STAGE_DIRECTION.split(sentence)]
            segments += [(f"{prefix}{i:x}.SB", part, who) for i, part in enumerate(parts, 1) if part]
    return segments


def read_lines(container: Container) -> list[Line]:
    """All dialogue lines that have a recording, in order of the recording's name."""
    lines: dict[str, Line] = {}
    for name in sorted(container.members):
        if name.endswith(".DOG"):
            partner = name.removesuffix(".DOG").lower().rstrip("0123456789")
            for member, text, who in read_dialogue(container.read(name)):
                if member in container.members:
                    lines[member] = Line(member, text, "joe" if who == "J" else partner)
    return [lines[member] for member in sorted(lines)]


def parse_amazon_queen(corpus_dirs: Mapping[str, Path], test_characters: Sequence[str]) -> Iterator[ClipSource]:
    """Clips of all dialogue lines with a recording."""
    container = Container(corpus_dirs[PACKAGE] / _CONTAINER)
    for line in read_lines(container):
        yield ClipSource(
            id=f"{line.character}-{line.member.removesuffix('.SB')}",
            audio=partial(read_member, container.path, *container.members[line.member]),
            group=line.character,
            domain="speech",
            licence=_LICENCE,
            attribution=_ATTRIBUTION,
            origin=f"{PACKAGE}: {_CONTAINER}#{line.member}",
            text=" ".join(_NOISE.sub(" ", line.text).split()) or None,
            language="English",
            gender="female" if line.character in FEMALE else "male",
            speaker=f"amazon_queen-{line.character}",
            attributes={"style": "acted"},
            split="test" if line.character in test_characters else "train",
            format="mp3",
        )


def prepare_amazon_queen(
    corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings, test_characters: Sequence[str] = TEST_CHARACTERS
) -> "CutSet":
    """Acted English dialogue of 30 characters.

    Args:
        corpus_dirs: The unpacked package ``flight-of-the-amazon-queen``.
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.
        test_characters: Characters to hold out, by the name of their dialogue files without the number.

    Returns:
        3,749 clips, less those that are too short or silent.
    """
    return build_cuts("amazon_queen", parse_amazon_queen(corpus_dirs, test_characters), output_dir, settings)
