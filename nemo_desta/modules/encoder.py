"""What every audio encoder offers, and the factory that builds one from a model reference (contract C5)."""

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nemo_desta.config import PadTo

SAMPLE_RATE = 16_000  # Hz; of every clip that enters an encoder
_GROUP_WASTE = 0.2  # share of padded frames above which a batch is encoded in several parts of similar lengths


@runtime_checkable
class Featurizer(Protocol):
    """Samples to encoder input, free of encoder weights so that data workers can hold one."""

    def __call__(self, samples: Sequence[np.ndarray | Tensor], pad_to: PadTo = PadTo.longest) -> tuple[Tensor, Tensor]:
        """Turn 16 kHz mono float clips into features_BMT (float32) and lengths_B (int64, feature frames)."""
        ...


@runtime_checkable
class AudioEncoder(Protocol):
    """A frozen audio encoder that gives the outputs of some of its layers.

    Attributes:
        taps: 0-based layers whose outputs are given.
        pad_to: how far clips are padded; ``thirty_seconds`` masks nothing.
    """

    taps: tuple[int, ...]
    pad_to: PadTo

    @property
    def featurizer(self) -> Featurizer:
        """Samples to the input of :meth:`encode`."""
        ...

    @property
    def dim(self) -> int:
        """Width of a tap."""
        ...

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        ...

    @property
    def num_taps(self) -> int:
        """Number of taps."""
        ...

    @property
    def frames_per_second(self) -> float:
        """Frames of a tap per second of audio."""
        ...

    def encode(self, features_BML: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give taps_NBTD and frame_mask_BT (True = real frame; None = every frame is real), without gradients."""
        ...


def default_taps(num_layers: int, num_taps: int = 4) -> tuple[int, ...]:
    """Evenly spaced layers that end in the last one.

    Gives the reference's lists for the Whisper sizes it knows: 32 layers (7, 15, 23, 31), 24 (5, 11, 17, 23), 12 (2, 5, 8, 11), 4 (0, 1, 2, 3);
    6 layers (whisper-base) give (1, 2, 4, 5). A shallower encoder than ``num_taps`` gives all its layers.

    Raises:
        ValueError: if a number is not positive.
    """
    if num_layers < 1 or num_taps < 1:
        raise ValueError(f"an encoder of {num_layers} layers cannot be tapped {num_taps} times; both numbers must be at least 1")
    count = min(num_taps, num_layers)
    return tuple(math.ceil((i + 1) * num_layers / count) - 1 for i in range(count))


def check_taps(taps: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Validate a list of taps, or give the default one.

    Raises:
        ValueError: if the list is empty, not strictly increasing, or names a layer that the encoder lacks.
    """
    if taps is None:
        return default_taps(num_layers)
    taps = tuple(int(tap) for tap in taps)
    if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= num_layers:
        raise ValueError(f"taps {list(taps)} must be increasing 0-based layers of an encoder with {num_layers} layers, e.g. {list(default_taps(num_layers))}")
    return taps


def frame_mask(frames_B: Tensor, num_frames: int) -> Tensor:
    """True at the first ``frames_B[b]`` of ``num_frames`` positions of each clip, as a (B, T) tensor on the lengths' device."""
    return torch.arange(num_frames, device=frames_B.device)[None, :] < frames_B[:, None]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the module's own format, so that taps are the same whatever precision trains around them. (The meta device knows no autocast.)"""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def stack_clips(
    samples: Sequence[np.ndarray | Tensor], *, max_samples: int, min_samples: int = 1, width: int = 0, truncate: bool = False
) -> tuple[Tensor, Tensor]:
    """Check clips and stack them, with zeros after the shorter ones.

    Args:
        samples: 16 kHz mono floating-point clips in [-1, 1], each of shape (samples,).
        max_samples: longest clip. Up to 10 ms more is a resampler's rounding and cut off.
        min_samples: shortest clip.
        width: least width of the result.
        truncate: cut longer clips instead of refusing them.

    Returns:
        batch_BS (float32, CPU) and the clips' sample counts (int64).

    Raises:
        ValueError: if there is no clip, or one is not mono floating point, not finite, too short or too long.
    """
    if not samples:
        raise ValueError("no clips given; a batch needs at least one")
    clips = [_check_clip(clip, index, min_samples, max_samples, truncate) for index, clip in enumerate(samples)]
    batch_BS = torch.zeros(len(clips), max(width, *(len(clip) for clip in clips)))
    for row, clip in zip(batch_BS, clips, strict=True):
        row[: len(clip)] = clip
    if not bool(batch_BS.isfinite().all()):
        bad = [index for index, row in enumerate(batch_BS) if not bool(row.isfinite().all())]
        raise ValueError(f"clips {bad} of the batch hold NaN or infinite samples; leave them out or decode them again")
    return batch_BS, torch.tensor([len(clip) for clip in clips])


def _check_clip(clip: np.ndarray | Tensor, index: int, min_samples: int, max_samples: int, truncate: bool) -> Tensor:
    """A clip as a float32 CPU tensor of at most ``max_samples``."""
    tensor = torch.as_tensor(clip).detach().cpu()
    if tensor.dim() != 1 or not tensor.is_floating_point():
        raise ValueError(f"clip {index} of the batch has shape {tuple(tensor.shape)} and type {tensor.dtype}; give mono float samples of shape (samples,)")
    if len(tensor) < min_samples:
        raise ValueError(f"clip {index} of the batch holds {len(tensor)} samples, the encoder needs {min_samples}; leave it out")
    if len(tensor) >= max_samples + SAMPLE_RATE // 100 and not truncate:
        seconds, limit = len(tensor) / SAMPLE_RATE, max_samples / SAMPLE_RATE
        raise ValueError(f"clip {index} of the batch lasts {seconds:.2f} s, the encoder takes {limit:.0f} s; cut it into windows (lhotse: cut_into_windows)")
    return tensor[:max_samples].float()


def similar_lengths(frames: list[int]) -> list[list[int]]:
    """Split clips into groups of similar lengths, longest first, each with at most ``_GROUP_WASTE`` of padding."""
    order = sorted(range(len(frames)), key=lambda row: -frames[row])
    groups: list[list[int]] = []
    longest = total = 0
    for row in order:
        if groups and 1 - (total + frames[row]) / (longest * (len(groups[-1]) + 1)) <= _GROUP_WASTE:
            groups[-1].append(row)
            total += frames[row]
        else:
            groups.append([row])
            longest = total = frames[row]
    return groups


def build_encoder(ref: str | Path, taps: Sequence[int] | None = None, pad_to: PadTo = PadTo.longest, *, dtype: torch.dtype = torch.float32) -> AudioEncoder:
    """Load a frozen audio encoder.

    Args:
        ref: ``asset://name``, ``hf://owner/name``, a bare hub name, a Whisper directory in Hugging Face layout, or a ``.nemo`` file.
        taps: 0-based layers to read; None = :func:`default_taps`.
        pad_to: padding of the input.
        dtype: floating-point format of the weights and of the taps.

    Returns:
        A ``WhisperTaps`` or a ``CanaryTaps``.

    Raises:
        ValueError: if the reference names neither a Whisper nor a NeMo Conformer model.
    """
    location = resolve_encoder(ref)
    if is_nemo_model(location):
        from nemo_desta.modules.canary import CanaryTaps

        return CanaryTaps.from_pretrained(location, taps=taps, pad_to=pad_to, dtype=dtype)
    _require_whisper(location)
    from nemo_desta.modules.whisper import WhisperTaps

    return WhisperTaps.from_pretrained(location, taps=taps, pad_to=pad_to, dtype=dtype)


def build_featurizer(ref: str | Path) -> Featurizer:
    """Build only the feature extraction that belongs to an encoder, without its weights where its format allows that (Whisper).

    Args:
        ref: as in :func:`build_encoder`.
    """
    location = resolve_encoder(ref)
    if is_nemo_model(location):
        from nemo_desta.modules.canary import CanaryTaps

        return CanaryTaps.from_pretrained(location).featurizer
    _require_whisper(location)
    from nemo_desta.modules.whisper import featurizer_for

    return featurizer_for(location)


def is_nemo_model(location: str | Path) -> bool:
    """Whether a resolved reference is a NeMo checkpoint: a ``.nemo`` file, or a hub name of NVIDIA's Canary / Conformer / Parakeet families."""
    if Path(location).suffix == ".nemo":
        return True
    name = str(location).lower()
    return not Path(location).is_dir() and name.startswith("nvidia/") and any(family in name for family in ("canary", "conformer", "parakeet"))


def resolve_encoder(ref: str | Path) -> str | Path:
    """A reference to an audio model (see :func:`build_encoder`) as a local path or a bare hub name."""
    if isinstance(ref, Path) or Path(ref).exists():
        return Path(ref)
    if "://" not in ref:
        return ref
    from nemo_desta.assets import resolve_model

    return resolve_model(ref)


def _require_whisper(location: str | Path) -> None:
    """Refuse a local directory that is not a Whisper model (hub names are judged by the loader)."""
    if isinstance(location, str):
        return
    config = location / "config.json"
    if not config.is_file():
        raise ValueError(f"{location} holds no config.json; name a Whisper directory in Hugging Face layout or a .nemo file")
    model_type = json.loads(config.read_text()).get("model_type")
    if model_type != "whisper":
        raise ValueError(f"{location} is a {model_type!r} model; the audio encoder must be a Whisper model or a .nemo file")
