"""Cuts with self-generated supervisions to JSONL in the form of DeSTA-AQA5M."""

import contextlib
import logging
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from nemo_desta.locking import exclusive, explain_full_disk
from nemo_desta.manifests.aqa5m import to_rows
from nemo_desta.manifests.aqa5m_import import format_row
from nemo_desta.manifests.sources import Problems, records
from nemo_desta.manifests.store import is_store, read_description

logger = logging.getLogger(__name__)

STYLE = {"spaces": True, "ascii": False}
_BUFFER = 1 << 20


def export_aqa5m(
    manifest: Path, output: Path, *, name: str = "rows", audio_root: str | None = None, overwrite: bool = False, problems: Problems | None = None
) -> dict[str, int]:
    """Write one file for each file that the rows were imported from, rows in the order of the manifest.

    What was imported comes out row for row, and byte for byte where the input was written by Python's json. The files appear when all of them are whole.

    Args:
        manifest: cuts with self-generated supervisions.
        output: folder of the JSONL files.
        name: stem of the file for rows that were not imported.
        audio_root: of rows that were not imported: their audio paths are made relative to it.
        overwrite: replace files of the same names.
        problems: where given, what could not be read.

    Returns:
        Rows by file stem.

    Raises:
        ValueError: a file exists, or another process writes to the folder.
        OSError: the disk is full; nothing half-written is left.
    """
    style = (read_description(manifest).get("style") or STYLE) if is_store(manifest) else STYLE
    problems = problems if problems is not None else Problems()
    counts = Counter[str]()
    with exclusive(output), contextlib.ExitStack() as stack, explain_full_disk(output, "nothing half-written is left"):
        files: dict[str, BinaryIO] = {}
        stack.callback(_remove_parts, output, files)
        for record in records(manifest, problems):
            for stem, row in to_rows(record, audio_root=audio_root):
                stem = stem or name
                if stem not in files:
                    files[stem] = _create(output, stem, overwrite)
                files[stem].write((format_row(row, style) + "\n").encode())
                counts[stem] += 1
        for file in files.values():
            file.close()
        for stem in files:
            _part(output, stem).replace(output / f"{stem}.jsonl")
    logger.info("%d rows in %d files", counts.total(), len(counts))
    return dict(counts)


def _part(output: Path, stem: str) -> Path:
    return output / f"{stem}.jsonl.part"


def _create(output: Path, stem: str, overwrite: bool) -> BinaryIO:
    target = output / f"{stem}.jsonl"
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists: choose another folder, or replace it with --overwrite")
    return open(_part(output, stem), "wb", buffering=_BUFFER)


def _remove_parts(output: Path, files: dict[str, BinaryIO]) -> None:
    for stem, file in files.items():
        with contextlib.suppress(OSError):
            file.close()
        _part(output, stem).unlink(missing_ok=True)
