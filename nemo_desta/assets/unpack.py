"""Unpacking of wheels, source distributions, npm tarballs and Debian packages, without external tools."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from nemo_desta.assets.catalogue import Kind, Package
from nemo_desta.assets.errors import AssetError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes: name 16, date 12, owner 6, group 6, mode 8, size 10, end mark 2


def unpack(package: Package, archive: Path, target: Path) -> None:
    """Unpack an archive below `target` (npm: without the leading ``package/``; the others: as they are).

    Raises:
        AssetError: The archive is damaged.
    """
    try:
        if package.kind is Kind.wheel:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target)
        elif package.kind is Kind.debian:
            _unpack_deb(archive, target)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, members=_selected(tar, package.members), filter="data")
            if package.kind is Kind.npm:
                _lift(target / "package", target)
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise AssetError(f"{archive} is damaged ({error}): delete it and fetch {package.name} again") from error


def _selected(tar: tarfile.TarFile, suffixes: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
    return (member for member in tar if not suffixes or member.name.endswith(suffixes))


def _lift(directory: Path, target: Path) -> None:
    for entry in list(directory.iterdir()):
        entry.rename(target / entry.name)
    directory.rmdir()


def ar_members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, size) of the members of a Unix ``ar`` archive.

    Raises:
        AssetError: Not an ar archive.
    """
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise AssetError("not a Debian package (no ar header): delete the file and fetch it again")
    offset = len(_AR_MAGIC)
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        offset += _AR_HEADER
        yield name, offset, size
        offset += size + size % 2  # members start at even offsets
        file.seek(offset)


def _unpack_deb(archive: Path, target: Path) -> None:
    with archive.open("rb") as file:
        for name, offset, size in ar_members(file):
            if name.startswith("data.tar"):
                file.seek(offset)
                _unpack_data(name, file, size, target)
                return
    raise AssetError(f"{archive} holds no data.tar: delete it and fetch it again")


def _unpack_data(name: str, file: BinaryIO, size: int, target: Path) -> None:
    content = file.read(size)
    if name.endswith(".zst"):  # tarfile knows the other compressions
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    # filter "tar", not "data": Debian packages hold absolute symbolic links, which the latter refuses; the content is pinned by its hash
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
        tar.extractall(target, filter="tar")
