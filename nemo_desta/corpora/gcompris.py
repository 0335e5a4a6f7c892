"""Sounds, instruments and world music of GCompris (Debian package ``gcompris-qt-data``), packed in Qt resource archives.

A Qt ``.rcc`` file (all integers big-endian): ``qres``, version, offsets of the tree, the data and the names. A node of the tree has 14 bytes
(22 from version 2 on: plus a time stamp): name offset u32, flags u16, then for a folder the number and the index of its children (u32 each),
for a file country and language (u16 each) and its offset in the data. A name is its length u16, a hash u32 and UTF-16; a file is its length u32 and its
bytes, with flag 1 a zlib stream after the plain size (u32), with flag 4 a Zstandard frame.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nemo_desta.corpora.audio import AudioError
from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import AUDIO_SUFFIXES, build_sounds, describe_music, describe_sound, family, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

ARCHIVES = "usr/share/gcompris-qt/rcc"
_ZLIB, _FOLDER, _ZSTD = 1, 2, 4
_MUSIC_FOLDERS = ("instruments", "explore_world_music")
_MUSIC_FILES = ("guitar_", "xylofon_son", "LRBuddhist_gong", "LRLaPause")


class ResourceFile(NamedTuple):
    """One file of a Qt resource archive."""

    path: str
    flags: int
    offset: int  # of the stored bytes
    size: int  # of the stored bytes


def read_rcc(path: Path) -> list[ResourceFile]:
    """Files of a Qt resource archive.

    Raises:
        ValueError: The file is no such archive or is cut off.
    """
    data = path.read_bytes()
    if data[:4] != b"qres":
        raise ValueError(f"{path} is no Qt resource archive: it begins with {data[:4]!r}, not b'qres'")
    try:
        return list(_walk(data))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch the package again") from error


def _walk(data: bytes) -> Iterator[ResourceFile]:
    version, tree, content, names = struct.unpack_from(">4I", data, 4)
    node_size = 22 if version >= 2 else 14
    stack = [(0, "")]
    while stack:
        index, parent = stack.pop()
        node = tree + index * node_size
        name_offset, flags = struct.unpack_from(">IH", data, node)
        here = f"{parent}/{_name(data, names + name_offset)}" if index else ""
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", data, node + 6)
            stack.extend((child, here) for child in range(first, first + count))
        else:
            start = content + struct.unpack_from(">I", data, node + 10)[0]
            yield ResourceFile(here.lstrip("/"), flags, start + 4, struct.unpack_from(">I", data, start)[0])


def _name(data: bytes, offset: int) -> str:
    length = struct.unpack_from(">H", data, offset)[0]
    return data[offset + 6 : offset + 6 + 2 * length].decode("utf-16-be")


def read_resource(path: Path, flags: int, offset: int, size: int) -> bytes:
    """Content of one file of an archive.

    Raises:
        AudioError: The archive is cut off or its compressed data is damaged.
    """
    with open(path, "rb") as f:
        f.seek(offset)
        stored = f.read(size)
    if len(stored) != size:
        raise AudioError("undecodable", f"{path} ends inside its member at byte {offset}")
    if not flags & (_ZLIB | _ZSTD):
        return stored
    try:
        if flags & _ZLIB:
            return zlib.decompress(stored[4:])
        return _unzstd(stored)
    except (zlib.error, ValueError) as error:
        raise AudioError("undecodable", f"{path} at byte {offset}: {error}") from error


def _unzstd(stored: bytes) -> bytes:
    import zstandard  # only some builds of the package use it

    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(stored)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def gcompris_sources(root: Path) -> Iterator[ClipSource]:
    """Audio files of all archives below a folder. The archives share recordings, so files of one name form one group wherever they lie."""
    first_archive: dict[str, str] = {}  # of a name: only a label of the group
    for archive in sorted(root.rglob("*.rcc")):
        for member in sorted(read_rcc(archive)):
            stem, _, suffix = member.path.rpartition("/")[2].rpartition(".")
            if f".{suffix}" not in AUDIO_SUFFIXES:
                continue
            music = archive.stem in _MUSIC_FOLDERS or stem.startswith(_MUSIC_FILES)
            label = None if music else describe_sound("gcompris", stem)
            attributes = describe_music("gcompris", stem) if music else label.attributes() if label else None
            if attributes is None:
                continue
            yield ClipSource(
                id=f"{archive.stem}-{stem}",
                audio=partial(read_resource, archive, *member[1:]),
                group=f"gcompris/{first_archive.setdefault(family(stem), archive.stem)}/{family(stem)}",
                domain="music" if music else "sound",
                attributes=attributes,
                licence="GPL-3.0-or-later AND per-file CC0/CC-BY/CC-BY-SA",
                attribution="GCompris contributors (see usr/share/doc/gcompris-qt-data/copyright)",
                origin=f"gcompris-qt-data:{archive.name}#{member.path}",
            )


def prepare_gcompris(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``gcompris-qt-data``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 70 sounds and 45 recordings of instruments and music.

    Raises:
        ValueError: The package is missing, or one of its archives is damaged.
    """
    sources = gcompris_sources(package_root(corpus_dirs, "gcompris-qt-data", ARCHIVES))
    return build_sounds("gcompris", sources, output_dir, settings)
