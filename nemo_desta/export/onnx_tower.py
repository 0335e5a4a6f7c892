"""The audio tower as an ONNX file, and its parity with PyTorch.

Strongly typed: the format (fp32, fp16, bf16) is that of the weights in the graph. fp16 and bf16 use opset 23, whose Attention operator TensorRT fuses;
fp32 uses opset 20, where attention is spelled out, because TensorRT's fused attention takes no fp32.
"""

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nemo_desta.export.audio_tower import EMBEDS, FEATURES, LENGTHS, TowerContract, example_inputs
from nemo_desta.export.features import GRAPH_FRAMES
from nemo_desta.export.settings import Dtype

logger = logging.getLogger(__name__)

TORCH_DTYPES = {Dtype.float32: torch.float32, Dtype.float16: torch.float16, Dtype.bfloat16: torch.bfloat16}
OPSETS = {Dtype.float32: 20, Dtype.float16: 23, Dtype.bfloat16: 23}
FP32_BUFFERS = ("inv_freq", "original_inv_freq", "tap_mean", "tap_std")
"""Rotation speeds, which rounding would turn into wrong angles at late positions, and the statistics of the encoder's taps."""
EXTERNAL_FROM = 1_800_000_000  # bytes of weights; one protobuf file ends at 2 GiB
MAX_BATCH = 4096
TOLERANCE = {Dtype.float32: 1e-5, Dtype.float16: 2e-3, Dtype.bfloat16: 2e-2}
"""Largest absolute difference for fp32 (of values up to 1; in proportion for larger ones); largest relative one (Euclidean norm) for the others."""


@dataclass(frozen=True)
class OnnxReport:
    """What an export of a graph cost."""

    seconds: float
    bytes: int
    opset: int
    external_data: bool


def require_exporter() -> None:
    """Fail early where the packages of the ``export`` extra are missing.

    Raises:
        ValueError: with the command that installs them.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"exporting to ONNX needs the package {error.name}: pip install -e '.[export]'") from error


def in_dtype(module: nn.Module, dtype: Dtype) -> nn.Module:
    """A copy of a module in a format, without gradients. What the model itself computes with in fp32 stays so (`FP32_BUFFERS`)."""
    changed = copy.deepcopy(module).to(TORCH_DTYPES[dtype]).eval().requires_grad_(False)
    for name, buffer in module.named_buffers():
        owner, _, own = name.rpartition(".")
        if own in FP32_BUFFERS:
            setattr(changed.get_submodule(owner), own, buffer.detach().clone())
    return changed


def export_tower(tower: nn.Module, contract: TowerContract, path: Path, dtype: Dtype, *, external_from: int = EXTERNAL_FROM) -> OnnxReport:
    """Write a tower as ONNX. Weights of ``external_from`` bytes and more go into ``<path>.data``.

    Args:
        tower: of :func:`nemo_desta.export.audio_tower.tower_of`; not changed.
        contract: of the tower.
        path: file to write.
        dtype: format of the weights and of the output.
        external_from: size from which the weights become external data.

    Raises:
        ValueError: the ``export`` extra is not installed.
    """
    require_exporter()
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes: dict[str, Any] = {FEATURES: {0: batch}}
    if not contract.fixed_frames:
        # A least number of frames keeps the tracer off the special case of a single one.
        shapes = {FEATURES: {0: batch, 2: torch.export.Dim("frames", min=GRAPH_FRAMES, max=contract.max_frames)}, LENGTHS: {0: batch}}
    return write_onnx(
        in_dtype(tower, dtype), example_inputs(contract), path, OPSETS[dtype], inputs=contract.inputs, outputs=(EMBEDS,), shapes=shapes, external=external_from
    )


def write_onnx(
    module: nn.Module,
    example: tuple[Any, ...],
    path: Path,
    opset: int,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: dict[str, Any],
    external: int = EXTERNAL_FROM,
) -> OnnxReport:
    """Trace a module and write it; the file is checked by ONNX's own checker.

    Args:
        module: in the format it shall have.
        example: inputs to trace with.
        path: file to write.
        opset: of the graph.
        inputs: names, in order.
        outputs: names, in order.
        shapes: dynamic dimensions by argument of ``forward``.
        external: size of the weights in bytes from which they go into ``<path>.data``.
    """
    import onnx

    start = time.monotonic()
    size = sum(p.numel() * p.element_size() for p in {id(p): p for p in module.parameters()}.values())
    with warnings.catch_warnings(), torch.no_grad(), _quiet("onnx_ir", "onnxscript", "torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            dynamo=True,
            opset_version=opset,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=size >= external)
    onnx.checker.check_model(str(path))
    data = path.with_name(path.name + ".data")
    written = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
    return OnnxReport(seconds=round(time.monotonic() - start, 1), bytes=written, opset=opset, external_data=data.exists())


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Errors only, from libraries that report every constant they fold."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from PyTorch.

    Attributes:
        max_abs: largest absolute difference.
        relative: Euclidean norm of the difference over that of PyTorch's result.
        limit: what the differences are held against.
        absolute: whether ``max_abs`` (fp32) or ``relative`` is held against it.
        batch_sizes: batches compared.
    """

    max_abs: float
    relative: float
    limit: float
    absolute: bool
    batch_sizes: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether the difference is within the limit. NaN is not."""
        return (self.max_abs if self.absolute else self.relative) <= self.limit


def compare(got: Sequence[np.ndarray], want: Sequence[np.ndarray], dtype: Dtype, batches: Sequence[int]) -> Parity:
    """Measure results of several batches against PyTorch's."""
    difference = [g.astype(np.float64) - w.astype(np.float64) for g, w in zip(got, want, strict=True)]
    norm = sum(float(np.square(w.astype(np.float64)).sum()) for w in want)
    return Parity(
        max_abs=max(float(np.abs(d).max()) for d in difference),
        relative=(sum(float(np.square(d).sum()) for d in difference) / norm) ** 0.5,
        limit=TOLERANCE[dtype] * (max(1.0, *(float(np.abs(w).max()) for w in want)) if dtype is Dtype.float32 else 1.0),
        absolute=dtype is Dtype.float32,
        batch_sizes=tuple(batches),
    )
