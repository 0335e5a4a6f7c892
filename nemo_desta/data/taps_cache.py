"""Encoder taps on disk, so that a frozen encoder hears every clip once in a run and not once an epoch.

One safetensors file a clip (bf16, real frames only), named by a fingerprint of the encoder and of the clip's audio source. Bounded in size: when
full, it takes no more and the rest is computed in every step. Writes are atomic, so several processes may share a cache.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from pathlib import Path

import torch
from lhotse.cut import MonoCut
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)
CACHE_DTYPE = torch.bfloat16


def clip_key(cut: MonoCut) -> str:
    """Identifies the samples of a cut: its source's path, size and time of change (or its bytes, where it lies in memory), start and duration."""
    assert cut.recording is not None
    parts = [f"{cut.start:.4f}", f"{cut.duration:.4f}", str(cut.channel), str(cut.sampling_rate)]
    for source in cut.recording.sources:
        inside = source.source if isinstance(source.source, bytes) else None
        parts += [str(source.source), *_stat(source.source)] if inside is None else [hashlib.sha256(inside).hexdigest()]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _stat(path: object) -> tuple[str, ...]:
    try:
        stat = os.stat(str(path))
    except OSError:
        return ("?",)
    return (str(stat.st_size), str(stat.st_mtime_ns))


def _size(file: Path) -> int:
    """Bytes of a file; 0 where another process has just removed it or it may not be looked at."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    """Remove a file where that is possible; on a read-only mount it stays, and costs nothing but another attempt to read it."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


class TapsCache:
    """A bounded folder of taps.

    Args:
        folder: where it lies; made when missing.
        encoder_id: fingerprint of everything that decides the taps (weights, tap layers, padding, format).
        max_bytes: size bound over all encoders' entries of this folder.
    """

    def __init__(self, folder: Path, *, encoder_id: str, max_bytes: int) -> None:
        self.root, self.folder, self.max_bytes = folder, folder / encoder_id, max_bytes
        self.full = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop(f"cannot be made ({error})")
        self.bytes = sum(_size(file) for file in folder.rglob("*.safetensors")) if folder.is_dir() else 0

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Tensor | None:
        """Taps [N, T, D] of a clip, or None where they are not there (a damaged file is removed and counts as absent)."""
        path = self._path(key)
        try:
            return load_file(path)["taps_NTD"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, KeyError, OSError) as error:
            logger.warning("removing the damaged taps of a clip, %s (%s); they will be computed again", path.name, error)
            _remove(path)
            return None

    def put(self, key: str, taps_NTD: Tensor) -> None:
        """Store the taps of a clip unless the cache is full. A full or read-only disk ends the caching with one warning, never the run."""
        size, path = taps_NTD.numel() * CACHE_DTYPE.itemsize, self._path(key)
        if self.full or os.path.exists(path):  # unlike Path.exists, False where the folder may not be looked into
            return
        if self.bytes + size > self.max_bytes:
            self._stop(f"holds {self.bytes / 2**30:.2f} GiB and data.taps_cache_gib allows {self.max_bytes / 2**30:.2f}")
            return
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"taps_NTD": taps_NTD.to(CACHE_DTYPE).contiguous()}, partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            _remove(partial)
            self._stop(f"cannot be written ({error})")
            return
        self.bytes += size

    def _stop(self, why: str) -> None:
        self.full = True
        logger.warning("the taps cache %s %s: further taps are computed in every step", self.root, why)

    def clear(self) -> None:
        """Remove everything that the cache holds."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.bytes, self.full = 0, False
