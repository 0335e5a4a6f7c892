"""Writing an indexed store so that a process can die at any moment: what is committed is never lost and never written twice."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any

from nemo_desta.locking import exclusive, explain_full_disk, fsync
from nemo_desta.manifests.records import Record, encode, rows_of
from nemo_desta.manifests.store import DESCRIPTION, FORMAT, MAX_ROWS, index_file, lengths_file, read_description, write_index
from nemo_desta.provenance import plain, write_json_atomic

logger = logging.getLogger(__name__)

PLAN, PROGRESS = "plan.json", "progress.jsonl"
SHARD_LINES = 50_000  # 60-80 MB a shard at the size of a DeSTA-AQA5M row
_BUFFER_LINES = 512


class StoreWriter:
    """Context manager that appends cuts to shards.

    A shard is written as ``.part``, made durable, renamed and entered in ``progress.jsonl`` together with the caller's own position in its input: that is a
    commit. A later writer of the same plan removes what came after the last commit and hands back that position in `state`.

    Args:
        directory: of the store; made where it is missing.
        plan: what decides the content (inputs and options), as plain data. Another plan than that of a store begun before is refused.
        shard_lines: cuts a shard.

    Attributes:
        state: the caller's position at the last commit; None at the beginning.
        done: the store was finished before, by the same plan.

    Raises:
        ValueError: another process writes there, or it holds something else.
    """

    def __init__(self, directory: str | Path, plan: dict[str, Any], *, shard_lines: int = SHARD_LINES) -> None:
        if shard_lines < 1:
            raise ValueError(f"shard_lines={shard_lines}: it must be at least 1")
        self.directory, self.plan, self.shard_lines = Path(directory), plain({**plan, "shard_lines": shard_lines}), shard_lines
        self.shards: list[dict[str, Any]] = []
        self.state: Any = None
        self.done = False
        self._stack = contextlib.ExitStack()
        self._file: Any = None

    def __enter__(self) -> "StoreWriter":
        self._stack.enter_context(exclusive(self.directory))
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._abandon()
        finally:
            self._stack.close()

    def _open(self) -> None:
        plan = self.directory / PLAN
        if plan.is_file():
            found = json.loads(plan.read_text(encoding="utf-8"))
            if found != self.plan:
                changed = sorted(key for key in {*found, *self.plan} if found.get(key) != self.plan.get(key))
                raise ValueError(f"{self.directory} holds output of other inputs or options (different: {', '.join(changed)}): remove it, or choose another")
        else:
            foreign = sorted(p.name for p in self.directory.iterdir() if p.name != ".lock")
            if foreign:
                raise ValueError(f"{self.directory} holds other files ({', '.join(foreign[:3])}): choose an empty folder")
            write_json_atomic(plan, self.plan)
        self._recover()

    def _recover(self) -> None:
        """Take over the committed shards and remove what came after them."""
        for entry in _whole_lines(self.directory / PROGRESS):
            self.state = entry.pop("state")
            self.shards += [entry] if entry else []
        known = {name for shard in self.shards for name in _files(shard["name"])}
        if len(known) != 3 * len(self.shards) or any(not (self.directory / name).is_file() for name in known):
            raise ValueError(f"{self.directory} lost shards that its {PROGRESS} lists: remove the folder and start again")
        for path in self.directory.glob("cuts.*.jsonl*"):
            if path.name not in known:
                path.unlink()
        self.done = (self.directory / DESCRIPTION).is_file()

    def _begin(self) -> None:
        self._name = f"cuts.{len(self.shards):06d}.jsonl"
        self._file = open(self.directory / f"{self._name}.part", "wb")  # noqa: SIM115 - closed by commit or _abandon
        self._buffer: list[bytes] = []
        self._offsets, self._milliseconds, self._rows = array("Q", [0]), array("L"), array("H")
        self._sha = hashlib.sha256()

    @property
    def full(self) -> bool:
        """Whether the shard in work has reached its size: time for the caller to commit."""
        return self._file is not None and len(self._rows) >= self.shard_lines

    @property
    def safe(self) -> str:
        """What a failed write leaves intact, in words."""
        return f"the {sum(s['lines'] for s in self.shards)} cuts of the finished shards are safe in {self.directory}"

    def write(self, line: bytes, *, seconds: float, rows: int) -> None:
        """Append one cut.

        Args:
            line: JSON without its end.
            seconds: duration of the cut.
            rows: self-generated supervisions.
        """
        if rows > MAX_ROWS:
            raise ValueError(f"a cut with {rows} rows; the index holds at most {MAX_ROWS}")
        if self._file is None:
            self._begin()
        self._buffer.append(line)
        self._offsets.append(self._offsets[-1] + len(line) + 1)
        self._milliseconds.append(round(seconds * 1000))
        self._rows.append(rows)
        if len(self._buffer) >= _BUFFER_LINES:
            self._flush()

    def write_record(self, record: Record) -> None:
        """Append one cut given as a dictionary."""
        self.write(encode(record), seconds=float(record["duration"]), rows=len(rows_of(record)))

    def _flush(self) -> None:
        if self._buffer:
            data = b"\n".join(self._buffer) + b"\n"
            self._sha.update(data)
            with explain_full_disk(self.directory, self.safe):
                self._file.write(data)
            self._buffer = []

    def commit(self, state: Any = None) -> None:
        """Make everything so far durable, with the caller's position.

        Raises:
            OSError: the disk is full; earlier commits are safe.
        """
        entry: dict[str, Any] = {}
        if self._file is not None:
            self._flush()
            with explain_full_disk(self.directory, self.safe):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
                shard = self.directory / self._name
                write_index(shard, self._offsets, self._milliseconds, self._rows)  # type: ignore[arg-type]
                os.replace(shard.with_name(f"{self._name}.part"), shard)
                fsync(self.directory)
            entry = {"name": self._name, "lines": len(self._rows), "rows": sum(self._rows), "seconds": round(sum(self._milliseconds) / 1000, 3)}
            entry |= {"bytes": self._offsets[-1], "sha256": self._sha.hexdigest()}
        with explain_full_disk(self.directory, self.safe):
            _append_line(self.directory / PROGRESS, {**entry, "state": state})
        self.state = state
        self.shards += [entry] if entry else []

    def finish(self, state: Any = None, **extra: Any) -> dict[str, Any]:
        """Commit and write ``store.json``.

        Returns:
            Its content.
        """
        self.commit(state)
        with explain_full_disk(self.directory, self.safe):
            description = describe(self.directory, self.shards, plan=self.plan, **extra)
        self.done = True
        return description

    def _abandon(self) -> None:
        """Drop the shard in work: it is written again, from the last commit."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            (self.directory / f"{self._name}.part").unlink(missing_ok=True)


def describe(directory: Path, shards: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """Write ``store.json`` for finished shards; its content."""
    totals = {key: sum(shard[key] for shard in shards) for key in ("lines", "rows", "bytes")}
    seconds = round(sum(shard["seconds"] for shard in shards), 3)
    write_json_atomic(directory / DESCRIPTION, {"format": FORMAT, **totals, "seconds": seconds, **extra, "shards": shards})
    return read_description(directory)


def _files(shard: str) -> list[str]:
    return [shard, index_file(Path(shard)).name, lengths_file(Path(shard)).name]


def _append_line(path: Path, entry: dict[str, Any]) -> None:
    """One durable line; what a failed write left of it is taken back."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as f:
            f.write((json.dumps(entry) + "\n").encode())
            f.flush()
            os.fsync(f.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a journal; a torn last line is cut off."""
    entries, end = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            entries.pop()
            break
        end += len(line)
    if path.exists() and path.stat().st_size != end:
        os.truncate(path, end)
    return entries


_OF_A_STORE = re.compile(r"plan\.json|progress\.jsonl|store\.json|cuts\.\d{6,}\.jsonl(\.idx|\.len)?(\.part)?|\.(plan|store)\.json\.\w+\.tmp")


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Whether a store may be written under a name: nothing is there, an empty folder, or a whole store that the user wants replaced.

    Raises:
        ValueError: the store exists and is not to be replaced, or the place holds something else, which is never removed.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and an indexed store is a folder: choose another --output")
    if not path.is_dir() or not (names := {p.name for p in path.iterdir()} - {".lock"}):
        return
    foreign = _foreign(path)
    # the plan tells a store that was written from JSONL files of the user that only were indexed
    if foreign or DESCRIPTION not in names or PLAN not in names:
        listed = ", ".join((foreign or sorted(names))[:3])
        raise ValueError(f"{path} holds output of another command, or more than a whole store ({listed}): choose another --output, or remove it yourself")
    if not overwrite:
        raise ValueError(f"{path} exists: choose another output, or replace it with --overwrite")


def part_of(path: Path) -> Path:
    """Where a store is written that appears under its name only when it is whole."""
    return path.with_name(f".{path.name}.part")


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _foreign(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.name != ".lock" and not (_OF_A_STORE.fullmatch(p.name) and p.is_file()))


def replace_store(path: Path) -> Path:
    """Let the whole store of `part_of` take the place of what is under the name, which the caller holds.

    Returns:
        Where the old one is now, for the caller to remove when it no longer holds the lock in it.
    """
    os.rename(path, _replaced(path))
    os.rename(part_of(path), path)
    fsync(path.parent)
    return _replaced(path)


def put_back(path: Path) -> None:
    """Mend what a process left that was killed while it replaced a store: the old one gets its name back where the new one has not yet taken it.

    Raises:
        ValueError: another process is at it.
    """
    if (old := _replaced(path)).is_dir():
        with exclusive(old):
            if not path.exists():
                os.rename(old, path)
        remove_trace(old)


def remove_trace(folder: Path) -> None:
    """Remove what a process has left beside its output.

    Raises:
        ValueError: it holds files of the user.
    """
    if not folder.is_dir():
        return
    if foreign := _foreign(folder):
        raise ValueError(f"{folder} is needed to write the output, and holds files that are no store's ({', '.join(foreign[:3])}): move them elsewhere")
    shutil.rmtree(folder)
