"""The append-only journal of answers, whole after any kind of death of the process.

Rows are answered in batches that are fixed beforehand. A batch is one write and one fsync, so that a crash loses at most the batches in work (one,
or as many as the engine takes at once); what a crash left of a half-written batch is cut away at the next start, and that batch is
answered again, with the same result.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from nemo_desta.generation.engines.base import Completion


class Journal:
    """``rows.jsonl``: one line a row, in the order of the batches.

    Args:
        path: of the file.
        batches: row ids of every batch; what is in the file must be a beginning of them.
    """

    def __init__(self, path: Path, batches: Sequence[Sequence[str]]) -> None:
        self.path, self.batches = path, batches
        self.answers: dict[str, Completion] = {}
        self.done = 0  # complete batches
        self.dropped = 0  # lines that a crash left incomplete

    def open(self) -> None:
        """Read what is there and cut off an incomplete end.

        Raises:
            ValueError: the file holds rows that this run would not have written there.
        """
        raw = self.path.read_bytes() if self.path.exists() else b""
        end, position, pending = 0, 0, []
        for line in raw.splitlines(keepends=True):
            record = _parse(line)
            if record is None:  # a torn write; nothing behind it can be trusted either
                break
            position += len(line)
            pending.append(record)
            if self.done >= len(self.batches) or record[0] != self.batches[self.done][len(pending) - 1]:
                raise ValueError(f"{self.path} holds row {record[0]!r} where this run has another: choose another run_dir, or remove {self.path.parent}")
            if len(pending) == len(self.batches[self.done]):
                self.answers.update(pending)
                self.done, end, pending = self.done + 1, position, []
        self.dropped = raw[end:].count(b"\n") + (not raw[end:].endswith(b"\n") and len(raw) > end)
        if end < len(raw):
            os.truncate(self.path, end)

    def append(self, answers: Sequence[Completion]) -> None:
        """Write the next batch.

        Raises:
            OSError: the disk is full or read-only; what was written before stays usable.
        """
        row_ids = self.batches[self.done]
        assert len(answers) == len(row_ids)
        lines = [
            json.dumps({"row_id": row, "text": a.text, "finish_reason": a.finish_reason, "num_tokens": a.num_tokens}, ensure_ascii=False)
            for row, a in zip(row_ids, answers, strict=True)
        ]
        try:
            with open(self.path, "ab", buffering=0) as file:
                _write_all(file.fileno(), ("\n".join(lines) + "\n").encode())
                os.fsync(file.fileno())
        except OSError as error:
            advice = f"make room or choose a writable run_dir, then start again; {self.done} batches are safe"
            raise OSError(error.errno, f"cannot write {self.path} ({error.strerror}): {advice}") from error
        self.answers.update(zip(row_ids, answers, strict=True))
        self.done += 1


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _parse(line: bytes) -> tuple[str, Completion] | None:
    """Row id and answer of one line; None for a torn one."""
    if not line.endswith(b"\n"):
        return None
    try:
        raw = json.loads(line)
        return raw["row_id"], Completion(raw["text"], raw["finish_reason"], raw["num_tokens"])
    except (ValueError, KeyError, TypeError):
        return None
