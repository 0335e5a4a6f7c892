"""The one error of this package and the translation of file-system failures into sentences."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AssetError(RuntimeError):
    """An asset cannot be had; the message says what to do about it."""


_REASONS = {
    errno.ENOSPC: "the disk is full: free some space, or point NEMO_DESTA_CACHE at a directory on a larger disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or point NEMO_DESTA_CACHE at another disk",
    errno.EROFS: "the file system is read-only: point NEMO_DESTA_CACHE at a directory you can write to",
    errno.EACCES: "you may not write there: point NEMO_DESTA_CACHE at a directory you can write to",
    errno.EPERM: "you may not write there: point NEMO_DESTA_CACHE at a directory you can write to",
    errno.ENOTDIR: "a part of that path is a file: point NEMO_DESTA_CACHE at a directory",
}


@contextmanager
def explained_os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError with a known cause (disk full, read-only, no permission) into an AssetError.

    Args:
        action: What was tried, e.g. "unpack mma-21.09-1".
        path: Where.

    Raises:
        AssetError: For the causes listed above; other OSErrors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise AssetError(f"cannot {action} in {path}: {reason}") from error
