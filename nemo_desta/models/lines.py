"""Files with a JSON object a line that a run writes beside its checkpoints."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def keep_lines(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave in a file what a checkpoint knows: a run that goes on from it writes the rest again. A line that a kill has cut is left out."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)  # of bytes: a text is also divided at U+2028, which JSON may hold within a string
    kept = [line for line in lines if line.endswith(b"}\n") and keep(json.loads(line))]
    if kept != lines:
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(kept))
        partial.replace(path)
