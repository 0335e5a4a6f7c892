"""Do all layouts of processes compute the same training? Spawned gloo processes on the CPU, no GPU needed.

    python tools/check_parallel.py --quick                 # tiny Llama, the layouts that between them use every part
    python tools/check_parallel.py                         # tiny Llama, Qwen2 and Qwen3, all layouts
    python tools/check_parallel.py --model smollm2         # the real SmolLM2-135M (minutes)
    python tools/check_parallel.py --models llama --layouts "TP2" "PP2 interleaved"     # a part of the table

For every layout a small audio LLM (random Whisper encoder and connector) is trained for five steps with the megatron backbone, and the same with the hf
backbone in one process: losses must agree to 1e-5 and the connector's gradients to 1e-4, relative, in fp32. Exit code 1 where they do not. Twice:

- free: every run goes its own way for five optimiser steps;
- held: every step begins at the weights that the reference had there, so that what is compared is one step's arithmetic.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, Qwen2Config, Qwen3Config, WhisperConfig

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.checkpoint import CheckpointConfig
from nemo_desta.config import ConnectorConfig
from nemo_desta.data.conversation import IGNORE, AudioLayout, Rendered
from nemo_desta.data.dataset import Clip, MicroBatch, StepBatch
from nemo_desta.data.packing import pack
from nemo_desta.models.desta import DestaModel
from nemo_desta.models.parallel_steps import ParallelSteps
from nemo_desta.models.steps import DataParallelSteps, Steps
from nemo_desta.modules.perception import Perception
from nemo_desta.modules.whisper import WhisperTaps
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.topology import Topology

STEPS, LOSS_TOLERANCE, GRADIENT_TOLERANCE = 5, 1e-5, 1e-4
QUERIES, RATE = 3, 16_000
WHISPER = WhisperConfig(d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=80, decoder_layers=1)
# 3 key/value heads, 301 tokens and 5 layers: nothing divides by 2, so that filling and uneven stages are at work.
TINY: dict[str, Any] = {
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "initializer_range": 0.15,
    "max_position_embeddings": 4096,
    "eos_token_id": 2,
}
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}


@dataclass(frozen=True)
class Layout:
    """Sizes and copies of the model."""

    name: str
    sizes: ParallelSizes
    copies: int = 1
    recompute: bool = False

    @property
    def world(self) -> int:
        """Processes."""
        return self.sizes.model * self.copies


LAYOUTS = (
    Layout("TP1", ParallelSizes()),
    Layout("TP2", ParallelSizes(tp=2)),
    Layout("PP2", ParallelSizes(pp=2)),
    Layout("TP2 x PP2", ParallelSizes(tp=2, pp=2)),
    Layout("TP2 + sequence parallel", ParallelSizes(tp=2, sequence_parallel=True)),
    Layout("TP2 x PP2 + sequence parallel, recompute", ParallelSizes(tp=2, pp=2, sequence_parallel=True), recompute=True),
    Layout("PP2 interleaved", ParallelSizes(pp=2, virtual_pp=2)),
    Layout("DP2", ParallelSizes(), copies=2),
    Layout("TP2 x DP2", ParallelSizes(tp=2), copies=2),
    Layout("PP2 x DP2", ParallelSizes(pp=2), copies=2),
)
QUICK = ("TP2 x PP2", "TP2 x PP2 + sequence parallel, recompute", "TP2 x DP2", "PP2 interleaved")


def tiny_configs() -> dict[str, Any]:
    """Configurations of random models."""
    return {
        "llama": LlamaConfig(**TINY, rope_parameters=ROPE, tie_word_embeddings=False),
        "llama-tied": LlamaConfig(**TINY, tie_word_embeddings=True),
        "qwen2": Qwen2Config(**TINY, tie_word_embeddings=False),
        "qwen3": Qwen3Config(**TINY, head_dim=8, tie_word_embeddings=True),
    }


@dataclass(frozen=True)
class Problem:
    """What is trained.

    Attributes:
        folder: of the LLM's weights.
        vocabulary: token ids below this are used.
        lr: learning rate.
        eps: Adam's.
    """

    folder: Path
    vocabulary: int
    lr: float = 1e-3
    eps: float = 1e-8


@dataclass(frozen=True)
class Run:
    """A training of a few steps.

    Attributes:
        losses: of every step.
        gradients: of every step, before clipping, as one vector.
        weights: of every step, at its beginning.
    """

    losses: list[float]
    gradients: list[Tensor]
    weights: list[list[Tensor]]


def rows_of_step(problem: Problem, step: int) -> list[tuple[Rendered, Tensor | None]]:
    """The rows of a global batch: unequal lengths, unequal numbers of labels, some without sound."""
    generator = torch.Generator().manual_seed(100 + step)
    rows: list[tuple[Rendered, Tensor | None]] = []
    for index, (length, labels) in enumerate(((24, 3), (40, 19), (33, 20), (28, 1), (45, 7))):
        ids = torch.randint(3, problem.vocabulary, (length,), generator=generator).tolist()
        spans = [] if index == 2 else [(5, QUERIES)]
        label_ids = [IGNORE] * (length - labels) + ids[length - labels :]
        samples = None if index == 2 else 0.3 * torch.randn(int(RATE * (0.3 + 0.1 * index)), generator=generator)
        rows.append((Rendered(ids, spans, [], label_ids, 0), samples))
    return rows


def micro_batches(problem: Problem, step: int, copy: int, copies: int) -> list[MicroBatch]:
    """One copy's rows of a step, two to a pack."""
    mine = rows_of_step(problem, step)[copy::copies]
    batches = []
    for at in range(0, len(mine), 2):
        rows = mine[at : at + 2]
        clips = [Clip("", samples_T=samples) for _, samples in rows if samples is not None]
        numbers = iter(range(len(clips)))
        spans = [[next(numbers)] if samples is not None else [] for _, samples in rows]
        batches.append(MicroBatch(pack([rendered for rendered, _ in rows], spans, QUERIES), clips))
    return batches


def perception(llm_dim: int, embedding_std: float) -> Perception:
    """Encoder and connector, the same on every process that makes them."""
    torch.manual_seed(3)
    encoder = WhisperTaps.from_config(WHISPER, taps=[0, 2])
    return Perception.build(encoder, ConnectorConfig(num_layers=1, num_queries=QUERIES, ffn_size=48, dropout=0.0), llm_dim=llm_dim, embedding_std=embedding_std)


def train(
    model: DestaModel, steps: Steps, problem: Problem, copy: int, copies: int, num_steps: int = STEPS, held: Sequence[Sequence[Tensor]] | None = None
) -> Run:
    """A few optimiser steps.

    Args:
        held: weights at which each step begins, whatever the last update made of them; None = go free.
    """
    parameters = model.trainable_parameters()
    optimizer = torch.optim.AdamW(
        parameters or [torch.nn.Parameter(torch.zeros(1))], lr=problem.lr, betas=(0.9, 0.98), eps=problem.eps, weight_decay=0.01
    )
    run = Run([], [], [])
    for step in range(num_steps):
        if held is not None and parameters:
            _set(parameters, held[step])
        optimizer.zero_grad()
        run.weights.append([p.detach().clone() for p in parameters])
        batch = steps.share(StepBatch(micro_batches(problem, step, copy, copies), []))
        loss, _ = steps.run(model, batch.micro_batches, parameters)
        run.gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]) if parameters else torch.zeros(0))
        steps.clip(parameters, 1.0)
        optimizer.step()
        run.losses.append(loss)
    return run


@torch.no_grad()
def _set(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def build(backbone: Any, problem: Problem, topology: Any = None) -> DestaModel:
    """The audio LLM around a backbone."""
    has_sound = topology is None or topology.is_first
    sound = perception(backbone.hidden_size, backbone.embedding_std) if has_sound else None
    tokenizer: Any = None  # rows are made of ids here
    model = DestaModel(sound, backbone, tokenizer, AudioLayout("<none>", QUERIES, None), CheckpointConfig("tiny", "tiny"), topology)
    return model.train()


def reference(problem: Problem) -> Run:
    """The same training with the hf backbone in one process."""
    model = build(HFBackbone.from_pretrained(problem.folder, dtype=torch.float32), problem)
    return train(model, DataParallelSteps(), problem, 0, 1)


def run_layout(layout: Layout, problem: Problem, check: Callable[..., Any] | None = None) -> Run:
    """Train under a layout, free; the process group of its size must be there."""
    model, topology = _cut(layout, problem)
    result = train(model, ParallelSteps(topology), problem, topology.data, topology.data_size)
    if check is not None:
        check(model, topology, problem)
    return result


def run_both(layout: Layout, problem: Problem, weights: Sequence[Sequence[Tensor]]) -> tuple[Run, Run]:
    """Train under a layout, free and held at ``weights``."""
    model, topology = _cut(layout, problem)
    free, held = (train(model, ParallelSteps(topology), problem, topology.data, topology.data_size, held=at) for at in (None, weights))
    return free, held


def _cut(layout: Layout, problem: Problem) -> tuple[DestaModel, Topology]:
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.parallel.topology import start

    topology = start(layout.sizes)
    backbone = MegatronBackbone.from_pretrained(problem.folder, topology, dtype=torch.float32, recompute=layout.recompute)
    return build(backbone, problem, topology), topology


def gradients_by_step(got: Run, wanted: Run) -> list[float]:
    """Relative difference of every step's gradient: one that is there at the first step is of the layout, one that grows is of the training."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(got.gradients, wanted.gradients, strict=True)]


def compare(got: Run, wanted: Run) -> tuple[float, float]:
    """Largest relative differences of a loss and of a step's gradient."""
    loss = max(abs(a - b) / abs(b) for a, b in zip(got.losses, wanted.losses, strict=True))
    return loss, max(gradients_by_step(got, wanted))


@dataclass(frozen=True)
class Row:
    """A row of the table: largest differences of both ways, and the free way's gradient by step."""

    model: str
    layout: str
    free: tuple[float, float]
    held: tuple[float, float]
    by_step: list[float]
    seconds: float

    @property
    def agrees(self) -> bool:
        return all(loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE for loss, gradient in (self.free, self.held))

    def __str__(self) -> str:
        steps = " ".join(f"{difference:.1e}" for difference in self.by_step)
        numbers = " ".join(f"{value:9.1e}" for value in (*self.free, *self.held))
        return f"{self.model:14} {self.layout:42} {numbers} {self.seconds:8.1f}  {steps}{'' if self.agrees else '  DIFFERS'}"


HEADER = f"{'model':14} {'layout':42} {'loss':>9} {'gradient':>9} {'loss held':>9} {'gr. held':>9} {'seconds':>8}  gradient by step"


def worker(rank: int, store_file: str, layouts: Sequence[Layout], problems: dict[str, Problem], results: Any) -> None:
    """All layouts one after the other; a process beyond a layout's size waits for the next."""
    torch.set_num_threads(1)
    if rank == 0:
        torch.save({name: reference(problem) for name, problem in problems.items()}, f"{store_file}-wanted.pt")
    for number, layout in enumerate(layouts):
        if rank >= layout.world:
            continue
        store = dist.FileStore(f"{store_file}-{number}", layout.world)
        # long, since the others wait here while rank 0 makes the reference
        dist.init_process_group("gloo", store=store, rank=rank, world_size=layout.world, timeout=timedelta(hours=1))
        dist.barrier()
        every: dict[str, Run] = torch.load(f"{store_file}-wanted.pt", weights_only=False)
        for name, problem in problems.items():
            wanted, began = every[name], time.perf_counter()
            free, held = run_both(layout, problem, wanted.weights)
            if rank == 0:
                by_step = gradients_by_step(free, wanted)
                results.put(Row(name, layout.name, compare(free, wanted), compare(held, wanted), by_step, time.perf_counter() - began))
        from nemo_desta.parallel.topology import stop

        stop()


def problems_of(model: str, quick: bool, folder: Path) -> dict[str, Problem]:
    """The models to check, written to ``folder`` where they are random."""
    if model == "smollm2":
        from nemo_desta.assets import resolve_model

        location = Path(resolve_model("asset://smollm2-135m-instruct"))
        # The recipe's rate (at 1e-3 this training diverges), and an eps between the gradients' rounding (1e-8 to 1e-7) and their size (1e-3 to 1e-2): with 1e-8
        # Adam's first update is of full size also where the gradient is rounding alone, and then it is rounding that decides where the weights go.
        return {"smollm2-135m": Problem(location, AutoConfig.from_pretrained(location).vocab_size, lr=1e-4, eps=1e-5)}
    from transformers import AutoModelForCausalLM

    problems = {}
    for name, config in tiny_configs().items():
        if quick and name != "llama":
            continue
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        problems[name] = Problem(folder / name, config.vocab_size)
    return problems


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny", help="random models of every kind, or the real small one")
    parser.add_argument("--quick", action="store_true", help="one model and the layouts that between them use every part")
    parser.add_argument("--models", nargs="+", choices=tiny_configs(), help="some of the random models")
    parser.add_argument("--layouts", nargs="+", choices=[layout.name for layout in LAYOUTS], metavar="NAME", help="some of the layouts, by name")
    args = parser.parse_args()
    if args.models and (args.model == "smollm2" or args.quick):
        parser.error("--models chooses among the random models: not with --model smollm2 or --quick")
    names = args.layouts or (QUICK if args.quick else [layout.name for layout in LAYOUTS])
    layouts = [layout for layout in LAYOUTS if layout.name in names]
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # Megatron's, in every process it starts, of packages that are not needed here
    with tempfile.TemporaryDirectory() as folder:
        problems = problems_of(args.model, args.quick, Path(folder))
        problems = {name: problem for name, problem in problems.items() if not args.models or name in args.models}
        results = mp.get_context("spawn").SimpleQueue()
        workers = mp.spawn(worker, args=(f"{folder}/store", layouts, problems, results), nprocs=max(layout.world for layout in layouts), join=False)
        return _report(workers, results, len(layouts) * len(problems))


def _report(workers: Any, results: Any, count: int) -> int:
    print(HEADER)
    failed = seen = 0
    done = False
    while not done or not results.empty():
        done = done or workers.join(timeout=0.2)
        while not results.empty():
            row: Row = results.get()
            failed, seen = failed + (not row.agrees), seen + 1
            print(row, flush=True)
    print(f"{seen - failed} of {count} agree (losses to {LOSS_TOLERANCE:.0e}, gradients to {GRADIENT_TOLERANCE:.0e}, over {STEPS} steps)")
    return int(failed > 0 or seen < count)


if __name__ == "__main__":
    sys.exit(main())
