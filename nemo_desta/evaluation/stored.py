"""Responses for scoring alone: a run's own journal, rows of another program, or the response files of the official scripts. The files are only read."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_desta.evaluation.benchmarks import sources
from nemo_desta.evaluation.benchmarks.base import Item, ZeroShotBenchmark
from nemo_desta.evaluation.benchmarks.responses import StoredRow
from nemo_desta.evaluation.inference import Response

logger = logging.getLogger(__name__)

ITEM_KEYS = ("item", "id", "key")
SUFFIXES = (".json", ".jsonl")


@dataclass
class Stored:
    """What was read.

    Attributes:
        responses: item id -> response; those to items that were not loaded, too.
        replies: item id -> purpose -> replies of the judge that official files record.
        files: SHA-256 of the files by name.
    """

    responses: dict[str, Response] = field(default_factory=dict)
    replies: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_predictions(path: Path, benchmark: ZeroShotBenchmark, items: Sequence[Item], response_keys: Sequence[str]) -> Stored:
    """Read the responses to a benchmark's items.

    Args:
        path: a file; or a folder with ``<benchmark>.jsonl`` or ``.json``, or else with the official response files, itself or in its folder ``<benchmark>/``.
            Rows of a file that is not official name their item by ``item``, ``id`` or ``key``; a JSON file of them is a list of rows, or a mapping from item
            to row or response; of an item with several rows the last response counts.
        items: those loaded; rows of official files are matched to them.
        response_keys: fields of a response, the first that a row has counts.

    Raises:
        ValueError: no such file, one that cannot be read, a row without item, no row with a response field, responses of several models in one journal or
            in several files.
    """
    if not path.exists():
        raise ValueError(f"predictions={path} does not exist: give a run's predictions folder, a folder of response files, or one file")
    files = _files(path, benchmark.name)
    rows = list(benchmark.official_rows(files, items)) if hasattr(benchmark, "official_rows") else []
    if not rows:
        named = [file for file in files if file == path or file.stem == benchmark.name]
        if not named:
            official = f", nor {benchmark.response_files}" if hasattr(benchmark, "response_files") else ""
            raise ValueError(f"no predictions of {benchmark.name}: {path} has neither {benchmark.name}.jsonl nor {benchmark.name}.json{official}")
        rows = list(_named_rows(named[0]))
    return _gathered(rows, response_keys)


def _files(path: Path, name: str) -> list[Path]:
    """The file itself, ``<name>.jsonl`` or ``<name>.json`` of a folder, or all the JSON files of its folder of that name, or its own."""
    if path.is_file():
        return [path]
    own = next((file for suffix in (".jsonl", ".json") if (file := path / f"{name}{suffix}").is_file()), None)
    if own is not None:
        return [own]
    folder = path / name if (path / name).is_dir() else path
    return sorted(file for pattern in ("*", "reports/*") for file in folder.glob(pattern) if file.suffix in SUFFIXES and file.is_file())


def _gathered(rows: Sequence[StoredRow], response_keys: Sequence[str]) -> Stored:
    if rows and not any(key in one.row for one in rows for key in (*response_keys, "error")):
        raise ValueError(f"{rows[0].file}: no row has a response; response_keys={list(response_keys)}, the first row has {sorted(rows[0].row)[:20]}")
    found, origin = Stored(), dict[str, Path]()
    for one in rows:
        text = next((str(one.row[key]) for key in response_keys if one.row.get(key) is not None), None)
        before = found.responses.get(one.item)
        if before is not None and before.response not in (None, text) and text is not None and origin[one.item] != one.file:
            raise ValueError(f"{origin[one.item]} and {one.file} hold different responses to {one.item!r}: give the files of one model")
        if text is not None or before is None:
            error, kind = (str(one.row.get(key) or "") if text is None else "" for key in ("error", "kind"))
            found.responses[one.item], origin[one.item] = Response(one.item, text, error, kind), one.file
        if one.replies:
            found.replies.setdefault(one.item, {}).update(one.replies)
    found.files = {file.name: sources.sha256_of(file) for file in dict.fromkeys(one.file for one in rows)}
    return found


def _named_rows(file: Path) -> Iterator[StoredRow]:
    """Rows that name their item themselves."""
    rows = _jsonl_rows(file) if file.suffix == ".jsonl" else _json_rows(file)
    runs = {row["run"] for row in rows if row.get("run")}
    if len(runs) > 1:
        named = ", ".join(sorted(runs))
        raise ValueError(f"{file} holds responses of {len(runs)} models or settings ({named}): keep the rows of one `run` in a file of its own")
    for number, row in enumerate(rows, start=1):
        item = next((str(row[key]) for key in ITEM_KEYS if row.get(key) not in (None, "")), None)
        if item is None:
            raise ValueError(f"{file}, row {number} names no item: it needs one of {', '.join(ITEM_KEYS)}; it has {sorted(row)[:12]}")
        yield StoredRow(item, row, file)


def _jsonl_rows(file: Path) -> list[Mapping[str, Any]]:
    """Rows of a JSONL file; a last line that was cut off while it was written is left out."""
    *lines, last = file.read_text(encoding="utf-8").split("\n")
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate([*lines, last], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) + 1:
                logger.warning("%s: the last line is not finished and left out", file)
                break
            raise ValueError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: an object was expected, found {type(row).__name__}")
        rows.append(row)
    return rows


def _json_rows(file: Path) -> list[Mapping[str, Any]]:
    content = sources.read_json(file)
    if isinstance(content, dict):
        return [{**(row if isinstance(row, dict) else {"response": row}), "item": item} for item, row in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{file} is neither a list of rows nor a mapping from item to row")
    return content
