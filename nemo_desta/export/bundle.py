"""The bundle's directory: written whole or not at all, with unchanged parts taken over from the last export.

A bundle is staged beside its final place and renamed at the end. Every part has a key, a hash of all that its files depend on; a part whose key is
that of the older bundle, and whose files are still what they were, is linked instead of made again.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nemo_desta.locking import locked_file, name_holder
from nemo_desta.provenance import plain, sha256_file, write_json_atomic

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_STAGING, _RETIRED, _LOCK = ".part", ".old", ".lock"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


class BundleWriter:
    """Collects the parts of a bundle in a staging directory.

    Args:
        staging: empty directory.
        older: the bundle that is being replaced, if there is one.
    """

    def __init__(self, staging: Path, older: Path | None) -> None:
        self.root = staging
        self._older = older
        self._before = _parts(older) if older is not None and is_bundle(older) else {}
        self.parts: dict[str, dict[str, Any]] = {}

    def part(self, name: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Make a part, or take it over.

        Args:
            name: of the part.
            key: all that the part's files depend on.
            make: writes the files below :attr:`root`; gives what the manifest shall say about them.

        Returns:
            The part's record.
        """
        digest = _digest(key)
        record = self._taken_over(name, digest)
        if record is None:
            start, before = time.monotonic(), self._files()
            report = dict(make())
            new = sorted(self._files() - before)
            record = {"key": digest, "seconds": round(time.monotonic() - start, 1), **plain(report), "files": {f: _fingerprint(self.root / f) for f in new}}
            logger.info("%s: %d files, %.1f MB, %.1f s", name, len(new), sum(f["bytes"] for f in record["files"].values()) / 1e6, record["seconds"])
        else:
            logger.info("%s: unchanged", name)
        self.parts[name] = record
        return record

    def _taken_over(self, name: str, digest: str) -> dict[str, Any] | None:
        record = self._before.get(name)
        if record is None or record["key"] != digest or self._older is None:
            return None
        if any(not (self._older / f).is_file() or _fingerprint(self._older / f) != mark for f, mark in record["files"].items()):
            logger.warning("%s: the older bundle's files were changed or lost; made again", name)
            return None
        for file in record["files"]:
            link_file(self._older / file, self.root / file)
        return {**record, "reused": True}

    def _files(self) -> set[str]:
        return {p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()}


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep a bundle's place, and what lies beside it meanwhile, for this process. To be held from before the first work to the end of :func:`staged_bundle`.

    The lock is the kernel's: it goes with its process however that ends. Its file goes with the block, or with that of the next export.

    Raises:
        ValueError: ``output`` is something else than a bundle, or another process writes it; the message names the process.
        OSError: the place cannot be written.
    """
    if output.exists() and not is_bundle(output) and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is no bundle: choose another output, or remove it")
    files = [place for place in output.absolute().parents if place.is_file()]
    if files:
        raise ValueError(f"{output} cannot be made, because {files[0]} is a file: choose another output")
    lock = output.absolute().with_name(output.absolute().name + _LOCK)
    with contextlib.ExitStack() as held:
        with _explained(output, every=True):
            lock.parent.mkdir(parents=True, exist_ok=True)
            name_holder(held.enter_context(locked_file(lock, output)))
        held.callback(lock.unlink, missing_ok=True)  # before the lock ends: who waits at the removed file is told so
        yield


@contextmanager
def _explained(output: Path, *, every: bool = False) -> Iterator[None]:
    """Say of errors of the disk, or of every error of the system, which bundle cannot be written and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error)
        if number is None or (not every and number not in _DISK):
            raise
        file = getattr(error, "filename", None)
        reason = os.strerror(number) + (f": {file}" if file else "")
        raise OSError(number, f"cannot write the bundle {output} ({reason}): make room or choose another output, then start again") from error


def _number(error: SafetensorError) -> int | None:
    """The system's error number that safetensors' writer gives in words alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextmanager
def staged_bundle(output: Path) -> Iterator[BundleWriter]:
    """A writer whose directory takes the place of ``output`` when the block ends well; otherwise nothing is left of it.

    Whoever calls it holds :func:`claimed`: a second process would remove the first one's files.

    Raises:
        OSError: the disk is full or not writable; an older bundle stays as it was.
    """
    staging, retired = (output.with_name(output.name + suffix) for suffix in (_STAGING, _RETIRED))
    if retired.is_dir() and not output.exists():
        retired.rename(output)  # an export was killed between its last two steps
    try:
        with _explained(output):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield BundleWriter(staging, output if output.exists() else None)
            assert (staging / MANIFEST).is_file(), "a bundle without a manifest"
            _replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, output: Path) -> None:
    """Put the staged bundle in its place; the older one goes only after that."""
    may_read = staging.stat().st_mode & 0o444  # safetensors writes for the owner alone, servers often run as someone else
    for path in staging.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | may_read)
            with path.open("rb") as file:
                os.fsync(file.fileno())
    retired = output.with_name(output.name + _RETIRED)
    shutil.rmtree(retired, ignore_errors=True)
    if output.exists():
        output.rename(retired)
    try:
        staging.rename(output)
    except OSError:
        if retired.exists():
            retired.rename(output)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def is_bundle(folder: Path) -> bool:
    """Whether a directory holds a bundle's manifest."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest.

    Raises:
        ValueError: there is none, or it is of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no bundle: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): export the bundle again") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema_version {version!r}, this code reads {SCHEMA_VERSION}: export the bundle again")
    lacking = [key for key in ("parts", "settings") if not isinstance(manifest.get(key), dict)]
    if lacking:
        raise ValueError(f"{path} is damaged (it lacks {' and '.join(lacking)}): export the bundle again")
    return manifest


def _parts(older: Path) -> dict[str, Any]:
    """Parts that may be taken over: none of a bundle whose manifest is damaged or of another version."""
    try:
        parts: dict[str, Any] = read_manifest(older)["parts"]
    except ValueError as error:
        logger.warning("every part is made again: %s", error)
        return {}
    return parts


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a bundle's manifest."""
    write_json_atomic(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, **manifest})


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a bundle that are missing or not what the manifest says."""
    marks = {file: mark for part in manifest["parts"].values() for file, mark in part["files"].items()}
    return sorted(f for f, mark in marks.items() if not (folder / f).is_file() or _fingerprint(folder / f) != mark)


def require_space(output: Path, needed: int) -> None:
    """Refuse an export that the disk has no room for, before any long work.

    Raises:
        ValueError: with both sizes.
    """
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(f"the bundle needs about {needed / 1e9:.1f} GB at {parent}, {free / 1e9:.1f} GB are free: make room or choose another output")


def unchanged_parts(output: Path, keys: Mapping[str, Callable[[], Mapping[str, Any]]]) -> set[str]:
    """Parts of an older bundle that an export will link instead of making them, so that they need no room; files are looked at for their size alone.

    Args:
        output: the bundle's place.
        keys: part -> its key, which may take a while to find and is asked for only where the older bundle has the part.
    """
    before = _parts(output) if is_bundle(output) else {}

    def whole(record: Mapping[str, Any]) -> bool:
        return all((output / f).is_file() and (output / f).stat().st_size == mark["bytes"] for f, mark in record["files"].items())

    return {name for name, key in keys.items() if name in before and whole(before[name]) and before[name]["key"] == _digest(key())}


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def link_file(source: Path, target: Path) -> None:
    """The same file at another place: a hard link where the file system has them, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
