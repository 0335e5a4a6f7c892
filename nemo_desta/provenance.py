"""Where a result comes from: code revision, library versions, fingerprints of the inputs (contract C8).

Every file of targets, checkpoints or results is written beside such a manifest, so that a figure can be traced to what made it.
"""

import contextlib
import dataclasses
import datetime
import enum
import hashlib
import json
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LIBRARIES = ("nemo_desta", "torch", "nemo_toolkit", "lightning", "transformers", "megatron-core", "lhotse", "numpy", "safetensors", "onnxruntime")


def manifest(config: Any, inputs: Mapping[str, str | os.PathLike[str]], **extra: Any) -> dict[str, Any]:
    """Describe what a stage is about to write.

    Args:
        config: the configuration of the stage: an OmegaConf node, a dataclass or a plain mapping.
        inputs: name -> file or directory that the stage reads; each is fingerprinted (a missing one is recorded as such).
        **extra: further plain values of the stage (counts, prompts, ids of models and judges).

    Returns:
        A JSON-serialisable dictionary with the keys config, code, versions, inputs, time, host, and those of `extra`.
    """
    return {
        "config": plain(config),
        "code": code_revision(),
        "versions": library_versions(),
        "inputs": {name: fingerprint(Path(path)) for name, path in inputs.items()},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": {"cores": os.cpu_count(), "system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        **{key: plain(value) for key, value in extra.items()},
    }


def code_revision(root: Path | None = None) -> dict[str, Any]:
    """Read the git revision of the code that runs.

    Args:
        root: a directory of the checkout; by default that of this package.

    Returns:
        `{"revision": hex or None, "dirty": bool or None}`; None where the code is no git checkout or git is missing.
    """
    root = root or Path(__file__).resolve().parent
    revision = _git(root, "rev-parse", "HEAD")
    # A package in site-packages may lie below somebody else's repository: only a tracked file speaks for the revision.
    if revision is None or (root == Path(__file__).resolve().parent and _git(root, "ls-files", "--error-unmatch", Path(__file__).name) is None):
        return {"revision": None, "dirty": None}
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if status is None else bool(status)}


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str | None]:
    """Versions of the installed distributions, None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces so that size does not matter."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    """Fingerprint a file or a directory.

    Args:
        path: file or directory. A directory's hash covers the relative names and the contents of all its files.

    Returns:
        `{"sha256": hex, "bytes": int, "files": int}`, or `{"missing": True}`. The location itself is left out: it says nothing on another machine.
    """
    if path.is_file():
        return {"sha256": sha256_file(path), "bytes": path.stat().st_size, "files": 1}
    if not path.is_dir():
        return {"missing": True}
    digest, size, files = hashlib.sha256(), 0, 0
    for member in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{member.relative_to(path).as_posix()}\0{sha256_file(member)}\n".encode())
        size, files = size + member.stat().st_size, files + 1
    return {"sha256": digest.hexdigest(), "bytes": size, "files": files}


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one.

    Args:
        path: target file; missing directories are made.
        obj: plain data; also dataclasses, OmegaConf nodes, paths, enums and numpy scalars.

    Raises:
        OSError: the file cannot be written (full disk, read-only directory); the message names it, and an older version of the file stays as it was.
    """
    path = Path(path)
    text = json.dumps(plain(obj), indent=2, ensure_ascii=False) + "\n"
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise OSError(error.errno, f"cannot write {path} ({error.strerror}): make room or choose a writable directory, then start again") from error


def plain(value: Any) -> Any:
    """Turn configuration nodes, dataclasses, paths, enums and numpy values into what JSON can hold.

    Raises:
        TypeError: a value of another kind, named by its type.
    """
    if isinstance(value, DictConfig | ListConfig):
        return plain(OmegaConf.to_container(value, resolve=True, throw_on_missing=False))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON: {value!r}")


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of a git command, None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
