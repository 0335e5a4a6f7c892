"""One writer an output: a lock that goes with its process, and errors of a full disk that say what is safe."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, quota, limit of a file's size


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a folder against a second process that would write the same output.

    The lock is the kernel's (flock): it ends with the process, also when that is killed, so that no stale lock file ever blocks a rerun.

    Raises:
        ValueError: another process holds it; the message names it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked_file(directory / ".lock", directory) as lock:
        name_holder(lock)
        yield


@contextlib.contextmanager
def locked_file(path: Path, output: Path) -> Iterator[int]:
    """Open a file for writing and hold it.

    Args:
        path: made where it is missing; its content stays.
        output: how the error calls what is being written.

    Yields:
        Its descriptor.

    Raises:
        ValueError: another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            raise ValueError(f"{output} is being written by {holder}: wait for it, or choose another output") from None
        if not path.exists() or os.fstat(descriptor).st_ino != path.stat().st_ino:  # renamed or removed by its holder between opening and locking
            raise ValueError(f"{output} has just been written by another process: look at it before you write it again")
        yield descriptor
    finally:
        os.close(descriptor)


def name_holder(lock: int) -> None:
    """Write into a locked file who holds it, for the error of a second process."""
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _holder(descriptor: int) -> str:
    said = os.pread(descriptor, 200, 0)
    return said.decode("ascii", "replace") if said.startswith(b"process ") else "another process"


@contextlib.contextmanager
def explain_full_disk(where: Path, what_is_safe: str) -> Iterator[None]:
    """Turn the bare errno of a failed write into a sentence with a remedy.

    Raises:
        OSError: as it came, with the place and what is safe in its message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, f"cannot write {where} ({error.strerror}): make room, then run the same command again; {what_is_safe}") from error
        raise


def fsync(path: Path) -> None:
    """Have a file's content, or the names in a folder, outlive a power cut: a name must not stand for half a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
