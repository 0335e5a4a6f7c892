"""Append-only journal of predictions: one JSON line a response, kept through kills, read back for resuming and for scoring again."""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """One response of a run.

    Attributes:
        run: fingerprint of model and generation settings; responses of different runs are never mixed.
        item: item id; with `condition` the key.
        messages: the conversation as asked; audio is named by cut id or path.
        parsed: what the rules of that day extracted; scoring extracts again from `response`.
    """

    run: str
    item: str
    condition: str
    messages: list[dict[str, Any]]
    response: str
    parsed: str | None
    gold: str


class PredictionJournal:
    """The predictions of one run on disk."""

    def __init__(self, path: Path, run: str) -> None:
        """Open or start the journal; a file of another run is set aside as ``<stem>-<its run>.jsonl``.

        Raises:
            ValueError: a line before the last is not JSON, or a row lacks fields.
        """
        self.path, self.run = path, run
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: dict[tuple[str, str], Prediction] = {}
        stored = self._read()
        if stored and stored[0].run != run:
            aside = path.with_name(f"{path.stem}-{stored[0].run}{path.suffix}")
            path.replace(aside)
            logger.info("the predictions of another model or other settings were moved to %s", aside)
            stored = []
        for row in stored:
            self.rows.setdefault((row.item, row.condition), row)

    def _read(self) -> list[Prediction]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):  # killed while writing: the last line has no end
            logger.warning("%s: dropped an unfinished last line of %d bytes", self.path, len(content) - len(whole))
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        rows = []
        for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
            try:
                rows.append(Prediction(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number} is no prediction ({error}): delete the line (its item is asked again) or the file") from error
        return rows

    def append(self, rows: Iterable[Prediction]) -> None:
        """Write rows and force them to disk; rows whose key is there already are left out."""
        new = [row for row in rows if (row.item, row.condition) not in self.rows]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in new)
            file.flush()
            os.fsync(file.fileno())
        for row in new:
            self.rows[(row.item, row.condition)] = row

    def rewrite(self, rows: Iterable[Prediction]) -> None:
        """Replace the whole file, atomically."""
        self.rows = {(row.item, row.condition): row for row in rows}
        new = self.path.with_suffix(".tmp")
        new.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.rows.values()), encoding="utf-8")
        os.replace(new, self.path)
