"""Files with a JSON object a line: what ends a line, and how a damaged gzip file shows itself."""

import gzip
import zlib
from pathlib import Path

DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a gzip file raises where it is cut off or damaged; zlib.error is neither an OSError nor a ValueError."""


def text_lines(path: Path, *, errors: str = "strict") -> list[str]:
    r"""The lines of a UTF-8 file that are not blank, without their ends.

    Only "\n" ends a line: `str.splitlines` also divides at U+2028, U+2029 and U+0085, which JSON may hold within a string and models write.

    Args:
        errors: as of `str.encode`: "replace" for files that a kill may have cut in the middle of a letter.
    """
    return [line for line in path.read_text(encoding="utf-8", errors=errors).split("\n") if line.strip()]
