"""Sound effects of OpenSFX (Debian package ``openttd-opensfx``): vehicles, animals, industry, weather.

The sounds lie in one ``opensfx.cat``: a table of (offset, size) pairs, 32-bit little-endian, the top bit of an offset is a flag; the first
offset tells the table's length. At every offset stands one byte with the length of a description (label, authors, licence), the
description, and a RIFF/WAVE file of the given size.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nemo_desta.corpora.audio import read_member
from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, describe_sound, family, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

CATALOGUE = "usr/share/games/openttd/baseset/opensfx/opensfx.cat"
_ORIGINAL = ("Original", "Orignal")  # sic
_CLIMATE = re.compile(r"^(?:Toyland|Tropical): ")
_LICENCES = {"Zero": "CC0-1.0", "ShareAlike": "CC-BY-SA-3.0", "Attribution": "CC-BY-3.0"}


class CatalogueEntry(NamedTuple):
    """One sound of a catalogue."""

    number: int
    description: str
    offset: int  # of the RIFF data, bytes
    size: int  # of the RIFF data, bytes


def read_catalogue(path: Path) -> list[CatalogueEntry]:
    """Table of a ``.cat`` file.

    Raises:
        ValueError: The file is shorter than its table says.
    """
    data = path.read_bytes()
    if len(data) < 8:
        raise ValueError(f"{path} is no sound catalogue: it has only {len(data)} bytes")
    count = (struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8
    if count == 0 or count * 8 > len(data):
        raise ValueError(f"{path} is no sound catalogue: its table of {count} entries does not fit into {len(data)} bytes")
    entries = []
    for index in range(count):
        offset, size = struct.unpack_from("<II", data, index * 8)
        offset &= 0x7FFFFFFF
        if offset >= len(data):
            raise ValueError(f"{path} is cut off: sound {index} would begin at byte {offset} of {len(data)}; fetch the package again")
        length = data[offset]
        description = data[offset + 1 : offset + 1 + length].split(b"\0")[0].decode("utf-8", errors="replace")
        entries.append(CatalogueEntry(index, description, offset + 1 + length, size))
    return entries


def opensfx_sources(path: Path) -> Iterator[ClipSource]:
    """Clips of a catalogue; the empty placeholders are left out. What was made from the same recording forms a group."""
    entries = read_catalogue(path)
    groups = _groups(entries)
    for entry in entries:
        name = _name(entry.description).replace(":", "")
        label = describe_sound("opensfx", name)
        if label is None or name.startswith("Unused/Nothing"):
            continue
        licence = next((short for word, short in _LICENCES.items() if word in entry.description.partition("License:")[2]), "CC-BY-SA-3.0")
        yield ClipSource(
            id=f"{entry.number:02d}-{name}",
            audio=partial(read_member, path, entry.offset, entry.size),
            group=f"opensfx/{groups[entry.number]}",
            domain="sound",
            attributes=label.attributes(),
            licence=licence,
            attribution=f"OpenSFX: {entry.description}",
            origin=f"openttd-opensfx:opensfx.cat#{entry.number}",
        )


def _name(description: str) -> str:
    """What an effect is called: the first words in quotation marks."""
    return description.split('"')[1] if description.count('"') > 1 else description


def _recordings(description: str) -> list[str]:
    """File names of all recordings that an effect was made from. Authors stand in quotation marks too, after "by"."""
    rest = description.replace(f'"{_name(description)}"', "", 1)
    return [name for before, name in re.findall(r'(\w*)[.,]? ?"([^"]+)"', rest) if (before not in ("by", "aka") and "." in name) or before in _ORIGINAL]


def _groups(entries: Sequence[CatalogueEntry]) -> dict[int, str]:
    """Group of each sound: effects that share a recording or, but for the climate, a name are joined.

    The name counts because credits are not whole: "Toyland: Road vehicle breakdown" holds the sound of "Road vehicle breakdown" and names others.
    A group is called after the first recording (else the name) of its first member.
    """
    joined: dict[str, str] = {}  # union-find over recordings and names

    def find(key: str) -> str:
        while joined.setdefault(key, key) != key:
            key = joined[key]
        return key

    keys = {}
    for entry in entries:
        recordings, name = _recordings(entry.description), _name(entry.description)
        keys[entry.number] = recordings[0] if recordings else family(name.replace(":", ""))
        for other in (*recordings, f"name {_CLIMATE.sub('', name).casefold()}"):
            root, second = find(keys[entry.number]), find(other)
            joined[second] = root
    first: dict[str, str] = {}
    return {number: first.setdefault(find(key), key) for number, key in keys.items()}


def prepare_opensfx(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``openttd-opensfx``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 65 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = opensfx_sources(package_root(corpus_dirs, "openttd-opensfx", CATALOGUE))
    return build_sounds("opensfx", sources, output_dir, settings)
