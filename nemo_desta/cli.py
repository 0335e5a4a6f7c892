"""What the command-line programs do about errors: a user's mistake and the machine's limits are one sentence, a programming error keeps its traceback."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from safetensors import SafetensorError

from nemo_desta.assets import AssetError

logger = logging.getLogger(__name__)

FAILED, INCOMPLETE, INTERRUPTED = 1, 3, 130  # exit codes; 3 = finished, but some items failed; 130 = 128 + SIGINT, what a shell makes of Ctrl-C
USERS = (ValueError, OSError, AssetError, SafetensorError, OmegaConfBaseException)
MISTAKES = (ValueError, HydraException, OmegaConfBaseException)  # of these, what the same command would only repeat
MISTAKE_FILE = "NEMO_DESTA_MISTAKE_FILE"  # environment variable: where such an error is written, for a script that sees no exit code (torchrun's is always 1)
# Torch reports the limits of the machine as plain RuntimeErrors: they are known by their text, every other RuntimeError keeps its traceback.
LIMITS = {
    "out of memory": "a smaller batch needs less memory (data.micro_batch_tokens, generation.batch_tokens, eval.batch_rows)",
    "not enough memory": "a smaller batch needs less memory (data.micro_batch_tokens, generation.batch_tokens, eval.batch_rows)",
    "PytorchStreamWriter failed": "the disk is full or not writable: make room or choose another run_dir",
    "No space left on device": "a disk is full (or shared memory, where data workers pass on what they read): make room, or lower data.num_workers",
    "Connection closed by peer": "another process of the run has ended: its own message says why",
    "remote process exited": "another process of the run has ended: its own message says why",
    "Timed out waiting": "another process of the run does not answer (a longer wait: parallel.timeout_seconds)",
    "DataLoader worker": "a data worker died: less memory is needed with a lower data.num_workers",
}


@contextmanager
def say_errors(what_goes_on: str) -> Iterator[None]:
    """End the program with one sentence on stderr instead of a traceback.

    Args:
        what_goes_on: what the same command does after Ctrl-C, to follow "the same command goes on", e.g. "from the last checkpoint".

    Raises:
        SystemExit: code 1 after ``error: ...`` for a user's mistake or a limit of the machine; code 130 after ``interrupted: ...`` for Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end(f"interrupted: the same command goes on {what_goes_on}", INTERRUPTED)
    except USERS as error:
        _end(f"error: {sentence(error)}", FAILED)
    except (RuntimeError, MemoryError) as error:
        remedy = _remedy(error)
        if remedy is None:
            raise
        _end(f"error: {sentence(error)} -- {remedy}", FAILED)


@contextmanager
def mark_mistakes() -> Iterator[None]:
    """Around a whole program: leave a user's mistake, also one in the command line, in the file that `MISTAKE_FILE` names, if it names one."""
    try:
        yield
    except SystemExit as end:  # made of an error by `say_errors`, or by Hydra
        path, cause = os.environ.get(MISTAKE_FILE), end.__context__
        if path and isinstance(cause, MISTAKES):
            with suppress(OSError):
                Path(path).write_text(f"{sentence(cause)}\n", encoding="utf-8")
        raise


def sentence(error: BaseException) -> str:
    """An error's message on one line; its kind where it has no message."""
    text = str(error)
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} is missing: add {error.full_key}=... to the command"
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(text.split()) or type(error).__name__


def _remedy(error: BaseException) -> str | None:
    text = "out of memory" if isinstance(error, MemoryError) else str(error)
    return next((remedy for pattern, remedy in LIMITS.items() if pattern in text), None)


def _end(text: str, code: int) -> None:
    logger.debug("ended by", exc_info=True)
    sys.stderr.write(f"{text}\n")
    sys.exit(code)
