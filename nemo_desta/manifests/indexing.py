"""An index for JSONL files that are there already, without copying them."""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nemo_desta.locking import exclusive, explain_full_disk
from nemo_desta.manifests.records import check_record, decode, rows_of
from nemo_desta.manifests.sources import Problems, lines
from nemo_desta.manifests.store import write_index
from nemo_desta.manifests.store_writer import PLAN, describe


def index_files(files: Sequence[Path], problems: Problems | None = None) -> dict[str, Any]:
    """Write ``.idx`` and ``.len`` beside JSONL files of cuts, and the ``store.json`` that makes their folder an indexed store.

    A damaged line keeps its place with 0 rows, so that no batch ever holds it; a last line that is cut off is an error.

    Args:
        files: uncompressed, all in one folder.
        problems: where given, the damaged lines.

    Returns:
        The store's description.

    Raises:
        ValueError: no file, several folders, a gzip file, a file that is cut off, or the folder belongs to another command.
        OSError: the disk is full.
    """
    problems = problems if problems is not None else Problems()
    folders = {f.parent for f in files}
    if len(folders) != 1:
        raise ValueError(f"give JSONL files of one folder, not of {len(folders)}: an indexed store is a folder")
    folder = folders.pop()
    for f in files:
        if f.suffix != ".jsonl":
            raise ValueError(f"{f} is no .jsonl file: a compressed file has no byte offsets, unpack it first")
    if (folder / PLAN).is_file():
        raise ValueError(f"{folder} is the output of another command, which indexes it itself: run that command again")
    with exclusive(folder), explain_full_disk(folder, "the JSONL files are untouched"):
        shards = [index_jsonl(f, problems) for f in files]
        return describe(folder, shards, problems=problems.as_dict())


def index_jsonl(file: Path, problems: Problems) -> dict[str, Any]:
    """Write ``.idx`` and ``.len`` beside one file; its entry in ``store.json``."""
    offsets, milliseconds, rows, sha = array("Q", [0]), array("Q"), array("Q"), hashlib.sha256()
    for number, line in enumerate(lines(file), 1):
        try:
            record = check_record(decode(line))
            seconds, many = float(record["duration"]), len(rows_of(record))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            problems.add("damaged line", f"{file}, line {number}: {error}")
            seconds, many = 0.0, 0
            if not line.endswith(b"\n"):
                raise ValueError(f"{file}, line {number} is cut off: remove that line (head -n {number - 1}), or repeat the step that wrote it") from error
        sha.update(line)
        offsets.append(offsets[-1] + len(line))
        milliseconds.append(round(seconds * 1000))
        rows.append(many)
    write_index(file, offsets, milliseconds, rows)
    totals = {"lines": len(rows), "rows": sum(rows), "seconds": round(sum(milliseconds) / 1000, 3)}
    return {"name": file.name, **totals, "bytes": offsets[-1], "sha256": sha.hexdigest()}
