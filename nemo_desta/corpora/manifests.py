"""Manifests of cuts: atomic writing, and reading that survives damaged lines and unknown fields."""

import dataclasses
import gzip
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_desta.jsonl import DAMAGED_GZIP

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

logger = logging.getLogger(__name__)

UNKNOWN_FIELD = "unknown field"
"""Stands in the problems that cost no cut."""


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text lines atomically; gzip (without a time stamp, so that equal content gives equal bytes) where the name ends in .gz."""
    data = "".join(line + "\n" for line in lines).encode()
    write_atomic(path, gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name and rename it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_cuts(path: Path, cuts: Iterable["MonoCut"]) -> None:
    """Write cuts as JSONL (gzip where the name ends in .gz), atomically."""
    write_lines(path, (json.dumps(cut.to_dict(), ensure_ascii=False) for cut in cuts))


def read_cuts(path: str | Path, *, problems: list[str] | None = None) -> "CutSet":
    """Read a manifest of cuts, without losing all of it to one bad line.

    A line that is cut off or not a cut is skipped; fields that Lhotse does not know (of a newer writer, or of another tool) are left
    out. Both are counted in the log. A gzip file that is damaged as such is refused: what can still be unpacked of it may be a small or a wrong part.

    Args:
        path: ``.jsonl`` or ``.jsonl.gz``.
        problems: Where given, one sentence per skipped line or unknown field name is appended to it.

    Returns:
        The cuts that could be read, in order.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not one line of the file is a cut, or it is a gzip file that is empty (0 bytes), cut off or damaged.
    """
    found: list[str] = []
    unknown: Counter[str] = Counter()
    cuts: list[MonoCut] = []
    for number, line in enumerate(_lines(Path(path)), 1):
        try:
            cuts.append(_parse_cut(json.loads(line.decode("utf-8")), unknown))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            found.append(f"{path}, line {number}: skipped, not a whole cut ({type(error).__name__}: {error})")
    skipped = len(found)
    found += [f"{path}: {UNKNOWN_FIELD} {name!r} left out of {n} cuts" for name, n in sorted(unknown.items())]
    if problems is not None:
        problems += found
    if skipped and not cuts:
        raise ValueError(f"{path} holds no readable cut: {found[0]}")
    if found:
        logger.warning("%s: %d cuts read, %d problems; first: %s", path, len(cuts), len(found), found[0])
    from lhotse import CutSet

    return CutSet.from_cuts(cuts)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines that are not blank, undecoded: a byte that is no UTF-8 costs its line only.

    Raises:
        ValueError: The gzip stream is empty, ends early or does not unpack to what was packed.
    """
    zipped = path.suffix == ".gz"
    if zipped and path.stat().st_size == 0:
        raise _damaged(path, "0 bytes")
    with gzip.open(path) if zipped else path.open("rb") as f:
        try:
            yield from (line for line in f if line.strip())
        except DAMAGED_GZIP as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, what: object) -> ValueError:
    return ValueError(f"{path} is cut off or damaged ({what}): copy it anew from where it is whole, or remove it and repeat the step that wrote it")


def _known(data: Mapping[str, Any], cls: type, prefix: str, unknown: Counter[str]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)} | {"type"}
    unknown.update(f"{prefix}{key}" for key in data if key not in names)
    return {key: value for key, value in data.items() if key in names}


def _parse_cut(data: dict[str, Any], unknown: Counter[str]) -> "MonoCut":
    from lhotse import MonoCut, Recording, SupervisionSegment
    from lhotse.serialization import deserialize_item

    data = _known(data, MonoCut, "", unknown)
    data["supervisions"] = [_known(s, SupervisionSegment, "supervision.", unknown) for s in data.get("supervisions") or []]
    if data.get("recording"):
        data["recording"] = _known(data["recording"], Recording, "recording.", unknown)
    cut = deserialize_item({"type": "MonoCut", **data})
    if not isinstance(cut, MonoCut):
        raise ValueError(f"a {type(cut).__name__}, expected a MonoCut")
    return cut
