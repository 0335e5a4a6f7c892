"""Writing cuts to a manifest: one JSONL file, gzipped or not, or an indexed store."""

import contextlib
import gzip
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from nemo_desta.locking import explain_full_disk, locked_file
from nemo_desta.manifests.records import Record, encode
from nemo_desta.manifests.store_writer import SHARD_LINES, StoreWriter, remove_output


class Sink(Protocol):
    """Takes cuts one by one."""

    count: int

    def write(self, record: Record) -> None:
        """Append a cut."""


@contextlib.contextmanager
def open_sink(path: str | Path, *, plan: Mapping[str, Any] | None = None, overwrite: bool = False, shard_lines: int = SHARD_LINES) -> Iterator[Sink]:
    """A manifest to write; it appears under its name only when it is whole.

    Args:
        path: ``x.jsonl``, ``x.jsonl.gz``, or a folder for an indexed store.
        plan: what decides the content, kept in the store's description.
        overwrite: replace what is there.
        shard_lines: cuts a shard of a store.

    Raises:
        ValueError: the output exists, is being written by another process, or has an unknown suffix.
        OSError: the disk is full; nothing half-written is left.
    """
    path = Path(path)
    is_file = path.name.endswith((".jsonl", ".jsonl.gz"))
    if not is_file and path.suffix and not path.is_dir():
        raise ValueError(f"the output {path} has the suffix {path.suffix!r}: use .jsonl, .jsonl.gz, or a folder's name for an indexed store")
    if path.is_file() or (path / "store.json").is_file():
        if not overwrite:
            raise ValueError(f"{path} exists: choose another output, or replace it with --overwrite")
        if not is_file:
            remove_output(path)
    with _open_file(path) if is_file else _open_store(path, plan or {}, shard_lines) as sink:
        yield sink


class _FileSink:
    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def write(self, record: Record) -> None:
        self.file.write(encode(record) + b"\n")
        self.count += 1


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[Sink]:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with locked_file(part, path) as descriptor:
        try:
            with explain_full_disk(path, "nothing half-written is left"):
                os.ftruncate(descriptor, 0)
                with open(os.dup(descriptor), "wb", buffering=1 << 20) as raw:
                    # no time stamp and no name, so that equal content gives equal bytes
                    zipped = gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) if path.suffix == ".gz" else None
                    yield _FileSink(zipped or raw)
                    if zipped:
                        zipped.close()
                    raw.flush()
                    os.fsync(raw.fileno())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


class _StoreSink:
    def __init__(self, writer: StoreWriter) -> None:
        self.writer, self.count = writer, 0

    def write(self, record: Record) -> None:
        self.writer.write_record(record)
        self.count += 1
        if self.writer.full:
            self.writer.commit()


@contextlib.contextmanager
def _open_store(path: Path, plan: Mapping[str, Any], shard_lines: int) -> Iterator[Sink]:
    if (path / "plan.json").is_file():
        remove_output(path)  # begun and not finished: these tools write it again from the start
    with StoreWriter(path, dict(plan), shard_lines=shard_lines) as writer:
        yield _StoreSink(writer)
        writer.finish()
