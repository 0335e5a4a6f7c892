"""Peak memory of reading an LLM's checkpoint under a layout, from a synthetic checkpoint in the LLM's real shapes. No GPU, and next to no disk.

    python tools/measure_loading.py                        # Llama-3.1-8B in bf16 at tp=2: one process after the other, 8 GiB each
    python tools/measure_loading.py --tp 2 --pp 2 --together
    python tools/measure_loading.py --shape tiny           # seconds

The weights are zeros in sparse files of 5 GB, as the hub's are cut. Every process builds its part of the model and reads its weights as a training run does.
Two peaks are printed for each: the memory that the process owns (RssAnon), and all that is resident (VmHWM), which also counts pages of the mapped files
that were read; the system takes those back when memory is short. Exit code 1 where a process owns more than its part, one tensor and what Python needs.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.shapes import LLAMA_8B

GIB = 2**30
SHARD_BYTES = 5 * 10**9  # transformers' own limit for a file
SLACK_GIB = 0.25  # allocator and interpreter
SHAPES = {
    "llama-3.1-8b": LLAMA_8B,
    "tiny": LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


@dataclass(frozen=True)
class Peak:
    """What one process needed, in GiB.

    Attributes:
        rank: of the process.
        before: owned before anything was built (libraries).
        weights: bytes of its part of the model.
        largest: the largest tensor of the checkpoint.
        owned: peak of what the process owns.
        resident: peak of what is resident, mapped files included.
        seconds: of building and reading.
    """

    rank: int
    before: float
    weights: float
    largest: float
    owned: float
    resident: float
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether no more was owned than the part, one tensor, and some slack."""
        return self.owned <= self.before + self.weights + self.largest + SLACK_GIB


def write_sparse_checkpoint(config: LlamaConfig, folder: Path) -> int:
    """A checkpoint of zeros in bf16 that takes no room on the disk; returns the bytes that it seems to have."""
    with torch.device("meta"):
        state: dict[str, Tensor] = AutoModelForCausalLM.from_config(config).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    files: list[dict[str, int]] = [{}]
    for name, tensor in state.items():
        size = 2 * tensor.numel()
        if files[-1] and sum(files[-1].values()) + size > SHARD_BYTES:
            files.append({})
        files[-1][name] = size
    weight_map: dict[str, str] = {}
    for number, sizes in enumerate(files, start=1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        _write_sparse(folder / file, {name: (list(state[name].shape), size) for name, size in sizes.items()})
        weight_map |= dict.fromkeys(sizes, file)
    total = sum(sum(sizes.values()) for sizes in files)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}), encoding="utf-8")
    return total


def _write_sparse(path: Path, tensors: dict[str, tuple[list[int], int]]) -> None:
    """A safetensors file whose data are a hole."""
    header, at = {}, 0
    for name, (shape, size) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def status_gib(*names: str) -> float:
    """Sum of fields of this process's /proc status."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in names) / 2**20


class OwnedPeak:
    """Peak of the memory that this process owns, looked at every few milliseconds: the kernel keeps a peak only of all that is resident."""

    def __init__(self) -> None:
        self.gib, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "OwnedPeak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.gib = max(self.gib, status_gib("RssAnon", "RssShmem"))


def load(folder: Path, sizes: ParallelSizes, turn: int | None) -> Peak:
    """Build and read this process's part when it is its turn (None = at once)."""
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.parallel.topology import start

    topology = start(sizes, timeout_seconds=3600)
    for _ in range(turn or 0):
        dist.barrier()
    before, began = status_gib("RssAnon", "RssShmem"), time.perf_counter()
    with OwnedPeak() as peak:
        backbone = MegatronBackbone.from_pretrained(folder, topology, dtype=torch.bfloat16)
    seconds = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters()) / GIB
    largest = 2 * max(backbone.config.vocab_size, backbone.config.intermediate_size) * backbone.hidden_size / GIB
    found = Peak(dist.get_rank(), before, weights, largest, peak.gib, status_gib("VmHWM"), seconds)
    del backbone
    if turn is not None:
        for _ in range(dist.get_world_size() - turn):
            dist.barrier()
    return found


def worker(rank: int, folder: str, sizes: ParallelSizes, together: bool, results: Any) -> None:
    """One process of the layout."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", sizes.model), rank=rank, world_size=sizes.model)
    results.put(load(Path(folder), sizes, None if together else rank))


def measure(config: LlamaConfig, sizes: ParallelSizes, *, together: bool = False, folder: Path | None = None) -> list[Peak]:
    """Peaks of all processes of a layout.

    Args:
        together: all read at the same time; else one after the other, each freeing its part before the next begins.
        folder: where the sparse files are made and removed again; None = the temporary directory.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made:
        write_sparse_checkpoint(config, Path(made))
        results = mp.get_context("spawn").SimpleQueue()
        mp.spawn(worker, args=(made, sizes, together, results), nprocs=sizes.model)
        return sorted((results.get() for _ in range(sizes.model)), key=lambda peak: peak.rank)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="all processes at the same time: needs the memory of the whole model")
    parser.add_argument("--folder", type=Path, help="on a file system with sparse files (default: the temporary directory)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    args = parser.parse_args()
    peaks = measure(SHAPES[args.shape], ParallelSizes(args.tp, args.pp), together=args.together, folder=args.folder)
    if args.json:
        print("\n".join(json.dumps({**asdict(peak), "fits": peak.fits}) for peak in peaks))
        return int(not all(peak.fits for peak in peaks))
    print(f"{args.shape} in bf16, tp={args.tp} pp={args.pp}, {'together' if args.together else 'one after the other'}; GiB")
    print(f"{'rank':>4} {'libraries':>9} {'own part':>9} {'a tensor':>9} {'owned':>7} {'resident':>9} {'seconds':>8}")
    for p in peaks:
        row = f"{p.rank:4} {p.before:9.2f} {p.weights:9.2f} {p.largest:9.2f} {p.owned:7.2f} {p.resident:9.2f} {p.seconds:8.0f}"
        print(row + ("" if p.fits else "  MORE THAN ITS PART AND A TENSOR"))
    return int(not all(p.fits for p in peaks))


if __name__ == "__main__":
    sys.exit(main())
