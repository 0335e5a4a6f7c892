"""Writing cuts to a manifest: one JSONL file, gzipped or not, or an indexed store."""

import contextlib
import gzip
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nemo_desta.locking import exclusive, explain_full_disk, locked_file, name_holder
from nemo_desta.manifests.records import Record, encode
from nemo_desta.manifests.sources import manifest_files
from nemo_desta.manifests.store_writer import SHARD_LINES, StoreWriter, check_replaceable, part_of, put_back, remove_trace, replace_store

_SAFE = "nothing half-written is left, and what was there before is as it was"


class Sink(Protocol):
    """Takes cuts one by one."""

    count: int

    def write(self, record: Record) -> None:
        """Append a cut."""


@contextlib.contextmanager
def open_sink(
    path: str | Path,
    *,
    plan: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    shard_lines: int = SHARD_LINES,
    inputs: Sequence[Path] = (),
) -> Iterator[Sink]:
    """A manifest to write; it appears under its name, and replaces what was there, only when it is whole.

    The output may therefore be the input itself, which is read until the end. It may not be a file of an input folder, whose other files would no longer fit.

    Args:
        path: ``x.jsonl``, ``x.jsonl.gz``, or a folder for an indexed store.
        plan: what decides the content, kept in the store's description.
        overwrite: replace what is there: a file, or a store and nothing else.
        shard_lines: cuts a shard of a store.
        inputs: manifests that the content is made of.

    Raises:
        ValueError: the output exists, holds something else than a store, belongs to an input, is being written by another process, or has an unknown suffix.
        OSError: the disk is full; nothing half-written is left.
    """
    path = Path(path)
    is_file = path.name.endswith((".jsonl", ".jsonl.gz"))
    if not is_file and path.suffix and not path.is_dir():
        raise ValueError(f"the output {path} has the suffix {path.suffix!r}: use .jsonl, .jsonl.gz, or a folder's name for an indexed store")
    for folder in (place for place in inputs if Path(place).is_dir()):
        if path.resolve() in {file.resolve() for file in manifest_files(Path(folder))}:
            raise ValueError(f"the output {path} is a file of the input {folder}, whose other files would no longer fit to it: choose another --output")
    with _open_file(path, overwrite) if is_file else _open_store(path.resolve(), plan or {}, shard_lines, overwrite) as sink:
        yield sink


class _FileSink:
    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def write(self, record: Record) -> None:
        self.file.write(encode(record) + b"\n")
        self.count += 1


def _check_file(path: Path, overwrite: bool) -> None:
    if path.is_file() and not overwrite:
        raise ValueError(f"{path} exists: choose another output, or replace it with --overwrite")


@contextlib.contextmanager
def _open_file(path: Path, overwrite: bool) -> Iterator[Sink]:
    _check_file(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = path.with_name(path.name + ".part"), path.with_name(f".{path.name}.lock")
    with locked_file(lock, path) as held:
        name_holder(held)
        try:
            _check_file(path, overwrite)  # again: another process may have finished since
            with explain_full_disk(path, _SAFE):
                with open(part, "wb", buffering=1 << 20) as raw:
                    # no time stamp and no name, so that equal content gives equal bytes
                    zipped = gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) if path.suffix == ".gz" else None
                    yield _FileSink(zipped or raw)
                    if zipped:
                        zipped.close()
                    raw.flush()
                    os.fsync(raw.fileno())
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)  # last: who opens it from now on finds that it is no longer the one under the name


class _WholeStore(StoreWriter):
    """Written anew from the start where it was not finished."""

    @property
    def safe(self) -> str:
        return _SAFE


class _StoreSink:
    def __init__(self, writer: StoreWriter) -> None:
        self.writer, self.count = writer, 0

    def write(self, record: Record) -> None:
        self.writer.write_record(record)
        self.count += 1
        if self.writer.full:
            self.writer.commit()


def _check_place(path: Path) -> None:
    """Whether a store can be written beside its name and take it, asked before the work and not after.

    Raises:
        ValueError: it cannot.
    """
    if os.path.ismount(path):
        raise ValueError(f"{path} is a mount point, whose place a finished store cannot take: name a folder below it, such as {path / 'store'}")
    parent = next(folder for folder in path.parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{parent} may not be written, and a store is written beside its name until it is whole: choose another --output")


@contextlib.contextmanager
def _open_store(path: Path, plan: Mapping[str, Any], shard_lines: int, overwrite: bool) -> Iterator[Sink]:
    check_replaceable(path, overwrite)  # before a lock file is made in a folder of the user
    _check_place(path)
    put_back(path)
    with exclusive(path):
        check_replaceable(path, overwrite)  # again: another process may have finished since
        remove_trace(part_of(path))
        try:
            with _WholeStore(part_of(path), dict(plan), shard_lines=shard_lines) as writer:
                yield _StoreSink(writer)
                writer.finish()
            old = replace_store(path)
        except BaseException:
            shutil.rmtree(part_of(path), ignore_errors=True)
            raise
    shutil.rmtree(old, ignore_errors=True)  # without the lock file open, which a network disk keeps until then
