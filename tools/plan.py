"""Memory of every layout of a recipe, and the one to take. Reads the configuration only: no weights, no GPU.

    python tools/plan.py --config-name=desta25 gpus=8 gpu_gib=80
    python tools/plan.py --config-name=desta25_qwen gpus=16 gpu_gib=24 model.llm=/models/qwen3-8b

The LLM's and the encoder's sizes come from their config.json (local, or in the Hugging Face cache), else from the table of this file.
How the figures are made stands in docs/parallel.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from transformers import AutoConfig, LlamaConfig, Qwen3Config, WhisperConfig

from nemo_desta.assets import AssetError, resolve_model
from nemo_desta.config import DestaConfig, typed
from nemo_desta.parallel.memory import Memory, Workload, estimate
from nemo_desta.parallel.plan import ParallelSizes, plan_heads, split_layers

CONF = Path(__file__).resolve().parent.parent / "conf"
LARGE_V3 = WhisperConfig(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=128)
SIZES: dict[str, Any] = {
    "hf://meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
    "hf://Qwen/Qwen3-8B": Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
    ),
    "hf://openai/whisper-large-v3": LARGE_V3,
    # A FastConformer layer has two feed-forward parts of four widths, a convolution and relative positions: as many parameters as one part of ten widths.
    "hf://nvidia/canary-1b-v2": WhisperConfig(d_model=1024, encoder_layers=32, encoder_attention_heads=8, encoder_ffn_dim=10240),
}
SPARE = 0.9  # share of a GPU that a plan may fill: the rest is for kernels' workspaces and fragmentation


@dataclass(frozen=True)
class Choice:
    """A layout and its need on the fullest process."""

    sizes: ParallelSizes
    recompute: bool
    need: Memory

    @property
    def name(self) -> str:
        """As overrides of the command line."""
        words = [f"parallel.tp={self.sizes.tp}", f"parallel.pp={self.sizes.pp}"]
        words += ["parallel.sequence_parallel=true"] if self.sizes.sequence_parallel else []
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
        if ref in SIZES:
            return SIZES[ref]
        raise ValueError(f"no config.json of {ref} is at hand and its sizes are not in tools/plan.py: give a local directory ({error})") from error


def choices(cfg: DestaConfig, gpus: int) -> list[Choice]:
    """All layouts that fit the model's sizes and the number of GPUs."""
    llm, encoder = model_config(cfg.model.llm), model_config(cfg.model.encoder)
    found = []
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4, 8):
            if gpus % (tp * pp):
                continue
            try:
                plan_heads(llm, tp)
                split_layers(llm.num_hidden_layers, pp)
            except ValueError:
                continue
            for recompute in (False, True):
                sizes = ParallelSizes(tp, pp, sequence_parallel=tp > 1)
                load = Workload(cfg.data.micro_batch_tokens, cfg.data.batch_rows // (gpus // sizes.model) or 1, cfg.model.llm_precision.value != "fp32")
                needs = [estimate(llm, encoder, cfg.model.connector, sizes, stage, load, recompute=recompute) for stage in range(pp)]
                found.append(Choice(sizes, recompute, max(needs, key=lambda need: need.total)))
    return found


def recommend(found: list[Choice], gib: float) -> Choice | None:
    """The fastest that fits: as many copies of the model as possible, then no recomputation, then fewer pipeline stages."""
    fitting = [choice for choice in found if choice.need.total <= SPARE * gib * 2**30]
    return min(fitting, key=lambda c: (c.sizes.model, c.recompute, c.sizes.pp), default=None)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-name", default="desta25")
    parser.add_argument("overrides", nargs="*", help="gpus=N, gpu_gib=N, and any key of the configuration as key=value")
    args = parser.parse_args()
    own = dict(word.split("=", 1) for word in args.overrides if word.startswith(("gpus=", "gpu_gib=")))
    gpus, gib = int(own.get("gpus", 1)), float(own.get("gpu_gib", 80))
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = typed(compose(args.config_name, overrides=[word for word in args.overrides if not word.startswith(("gpus=", "gpu_gib="))]))
    try:
        found = choices(cfg, gpus)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    best = recommend(found, gib)
    _print_table(args.config_name, found, best, gpus, gib)
    return 0 if best is not None else 1


def _print_table(name: str, found: list[Choice], best: Choice | None, gpus: int, gib: float) -> None:
    print(f"{name} on {gpus} GPUs of {gib:g} GiB; GiB on the fullest process, {SPARE:.0%} of a GPU may be filled")
    print(f"{'tp':>3} {'pp':>3} {'dp':>3} {'recompute':>9} {'weights':>8} {'trained':>8} {'activations':>11} {'total':>7}")
    for c in found:
        parts = [value / 2**30 for value in (c.need.weights, c.need.trained, c.need.activations, c.need.total)]
        mark = "  <- recommended" if c is best else "" if parts[-1] <= SPARE * gib else "  does not fit"
        row = f"{c.sizes.tp:3} {c.sizes.pp:3} {gpus // c.sizes.model:3} {'yes' if c.recompute else 'no':>9}"
        print(f"{row} {parts[0]:8.1f} {parts[1]:8.1f} {parts[2]:11.1f} {parts[3]:7.1f}{mark}")
    print(best.name if best else "nothing fits: take more or larger GPUs, or lower data.micro_batch_tokens")


if __name__ == "__main__":
    sys.exit(main())
