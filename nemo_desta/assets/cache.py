"""The cache directory: its layout, completed markers, locks and atomic replacement of directories.

Layout: ``downloads/<file>`` (archives as published), ``unpacked/<name>-<version>/``, ``models/<name>/`` and ``locks/``.
A directory counts only if it holds a ``.completed`` file, written last and before the directory gets its final name.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_desta.assets.errors import explained_os_errors

logger = logging.getLogger(__name__)

COMPLETED = ".completed"


def cache_dir() -> Path:
    """Return the cache directory: ``$NEMO_DESTA_CACHE``, else ``~/.cache/nemo_desta`` (not created here)."""
    configured = os.environ.get("NEMO_DESTA_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "nemo_desta"


def subdirectory(name: str) -> Path:
    """Create (if need be) and return one of the cache's own directories.

    Raises:
        AssetError: The cache cannot be written to.
    """
    path = cache_dir() / name
    with explained_os_errors(f"create the cache directory {name}", cache_dir()):
        path.mkdir(parents=True, exist_ok=True)
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_completed(directory: Path) -> dict[str, object] | None:
    """Return the content of a directory's completed marker, or None if the directory is absent or unfinished."""
    try:
        content = json.loads((directory / COMPLETED).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the inter-process lock ``locks/<name>.lock``; waits while another process (or thread) holds it."""
    path = subdirectory("locks") / f"{name}.lock"
    with explained_os_errors("take a lock", path.parent):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that prepares %s", name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, also when the process dies


@contextmanager
def replaced_directory(final: Path, marker: dict[str, object]) -> Iterator[Path]:
    """Give a scratch directory that becomes `final` if the block succeeds, and disappears if it does not.

    Call it under the lock of `final`. Scratch directories that a killed process left are removed.

    Args:
        final: The directory to create or replace.
        marker: Content of its completed marker.
    """
    scratch = final.parent / f".tmp-{final.name}"
    with explained_os_errors(f"write {final.name}", final.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
            (scratch / COMPLETED).write_text(json.dumps(marker, indent=1, sort_keys=True))
            if final.exists():
                shutil.rmtree(final)
            scratch.rename(final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def tree_size(directory: Path) -> tuple[int, int]:
    """Return (number of regular files, their bytes) below a directory, leaving out the completed marker."""
    files = [entry.stat().st_size for entry in directory.rglob("*") if entry.is_file() and not entry.is_symlink() and entry.name != COMPLETED]
    return len(files), sum(files)
