"""Memory of every layout of a recipe, and the one to take. Reads the configuration only: no weights, no GPU.

    python tools/plan.py --config-name=desta25 gpus=8 gpu_gib=80
    python tools/plan.py --config-name=desta25_qwen gpus=16 gpu_gib=24 model.llm=/models/qwen3-8b

The LLM's and the encoder's sizes come from their config.json (local, or in the Hugging Face cache), else from the table in nemo_desta/parallel/shapes.py.
How the figures are made stands in docs/parallel.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoConfig

from nemo_desta.assets import AssetError, resolve_model
from nemo_desta.cli import sentence
from nemo_desta.config import DestaConfig, Precision, typed
from nemo_desta.parallel.memory import Memory, Shapes, Workload, estimate, estimate_sharded
from nemo_desta.parallel.plan import ParallelSizes, plan_heads, split_layers
from nemo_desta.parallel.shapes import PUBLISHED

OWN = ("gpus=", "gpu_gib=")  # what is no key of the configuration
CONF = Path(__file__).resolve().parent.parent / "conf"
LARGEST = 8  # tensor-parallel processes and pipeline stages that are looked at
SPARE = 0.9  # share of a GPU that a plan may fill: the rest is for kernels' workspaces and fragmentation


@dataclass(frozen=True)
class Choice:
    """A layout and its need on the fullest process.

    Attributes:
        sharded: the frozen LLM lies in shards over all processes (FSDP2).
    """

    sizes: ParallelSizes
    recompute: bool
    need: Memory
    sharded: bool = False

    @property
    def name(self) -> str:
        """As overrides of the command line."""
        if self.sharded:
            return "parallel=fsdp2"
        words = [f"parallel.tp={self.sizes.tp}", f"parallel.pp={self.sizes.pp}"]
        words += ["parallel.sequence_parallel=true"] if self.sizes.sequence_parallel else []
        words += ["parallel.backbone=megatron"] if self.recompute and self.sizes.model == 1 else []  # the hf backbone keeps all activations
        words += ["parallel.recompute=true"] if self.recompute else []
        return " ".join(words)


def model_config(ref: str) -> Any:
    """Sizes of a model.

    Raises:
        ValueError: neither its config.json nor an entry in the table is there.
    """
    try:
        return AutoConfig.from_pretrained(str(resolve_model(ref)), local_files_only=True)
    except (OSError, AssetError, ValueError) as error:
        if ref in PUBLISHED:
            return PUBLISHED[ref]
        raise ValueError(f"no config.json of {ref} is at hand, nor are its sizes in nemo_desta/parallel/shapes.py: give a directory ({error})") from error


def choices(cfg: DestaConfig, gpus: int) -> list[Choice]:
    """All layouts that fit the model's sizes and the number of GPUs."""
    shapes = Shapes(model_config(cfg.model.llm), model_config(cfg.model.encoder), cfg.model.connector, cfg.model.lora)
    found = []
    for tp in range(1, LARGEST + 1):
        for pp in range(1, LARGEST + 1):
            if _fits(shapes.llm, tp, pp, gpus):
                sizes = ParallelSizes(tp, pp, sequence_parallel=tp > 1)
                found += [Choice(sizes, recompute, _fullest(shapes, sizes, _load(cfg, gpus // sizes.model), recompute)) for recompute in (False, True)]
    if gpus > 1:
        found.append(Choice(ParallelSizes(), False, estimate_sharded(shapes, gpus, _load(cfg, gpus)), sharded=True))
    return found


def _fits(llm: Any, tp: int, pp: int, gpus: int) -> bool:
    try:
        ParallelSizes(tp, pp).data(gpus)
        plan_heads(llm, tp)
        split_layers(llm.num_hidden_layers, pp)
    except ValueError:
        return False
    return True


def _load(cfg: DestaConfig, copies: int) -> Workload:
    """What one of the model's copies gets in a step."""
    llm, encoder = (precision != Precision.fp32 for precision in (cfg.model.llm_precision, cfg.model.encoder_precision))  # auto is bf16 on a GPU
    return Workload(cfg.data.micro_batch_tokens, cfg.data.batch_rows // copies or 1, half=llm, half_encoder=encoder)


def _fullest(shapes: Shapes, sizes: ParallelSizes, load: Workload, recompute: bool) -> Memory:
    return max((estimate(shapes, sizes, stage, load, recompute=recompute) for stage in range(sizes.pp)), key=lambda need: need.total)


def recommend(found: list[Choice], gib: float) -> Choice | None:
    """The fastest that fits: as many copies of the model as possible, then no recomputation, then weights that need not be gathered, then fewer stages."""
    fitting = [choice for choice in found if choice.need.total <= SPARE * gib * 2**30]
    return min(fitting, key=lambda c: (c.sizes.model, c.recompute, c.sharded, c.sizes.pp), default=None)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-name", default="desta25")
    parser.add_argument("overrides", nargs="*", help="gpus=N, gpu_gib=N, and any key of the configuration as key=value")
    args = parser.parse_args()
    own = dict(word.split("=", 1) for word in args.overrides if word.startswith(OWN))
    try:
        gpus, gib = int(own.get("gpus", "1")), float(own.get("gpu_gib", "80"))
        if gpus < 1 or gib <= 0:
            raise ValueError(f"gpus={gpus} gpu_gib={gib:g}: both must be above zero")
        with initialize_config_dir(str(CONF), version_base=None):
            cfg = typed(compose(args.config_name, overrides=[word for word in args.overrides if not word.startswith(OWN)]))
        found = choices(cfg, gpus)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    best = recommend(found, gib)
    _print_table(args.config_name, found, best, gpus, gib)
    return 0 if best is not None else 1


def _print_table(name: str, found: list[Choice], best: Choice | None, gpus: int, gib: float) -> None:
    print(f"{name} on {gpus} GPUs of {gib:g} GiB; GiB on the fullest process, {SPARE:.0%} of a GPU may be filled")
    print(f"{'tp':>3} {'pp':>3} {'dp':>3} {'fsdp2':>5} {'recompute':>9} {'weights':>8} {'trained':>8} {'activations':>11} {'total':>7}")
    for c in found:
        parts = [value / 2**30 for value in (c.need.weights, c.need.trained, c.need.activations, c.need.total)]
        mark = "  <- recommended" if c is best else "" if parts[-1] <= SPARE * gib else "  does not fit"
        row = f"{c.sizes.tp:3} {c.sizes.pp:3} {gpus // c.sizes.model:3} {_yes(c.sharded):>5} {_yes(c.recompute):>9}"
        print(f"{row} {parts[0]:8.1f} {parts[1]:8.1f} {parts[2]:11.1f} {parts[3]:7.1f}{mark}")
    print(best.name if best else "nothing fits: take more or larger GPUs, or lower data.micro_batch_tokens")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
