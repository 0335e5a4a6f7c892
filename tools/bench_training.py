"""Training speed of this project's backbones and of a plain implementation: same machine, same clips, same encoder, connector and LLM.

    python tools/bench_training.py                            # SmolLM2-135M and Whisper-base on rows like the mini recipe's, on the CPU
    python tools/bench_training.py --preset mini-long         # the same models; clips of 1 to 10 s, longer rows that share no beginning
    python tools/bench_training.py --preset tiny              # random tiny models, seconds
    python tools/bench_training.py --preset desta25-shape     # random weights in the paper's shapes; needs an NVIDIA GPU
    python tools/bench_training.py --reference ~/DeSTA2.5-Audio   # and the reference repository's own model code, from a clone

The plain way is the reference's: every clip padded to 30 s, the adapter run once a tap, rows padded on the left to one length, logits at every position. Each
variant runs in a process of its own. Time is given twice: by the clock, and as CPU seconds of the process, which other programs on the machine disturb less.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, WhisperConfig

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.checkpoint import CheckpointConfig
from nemo_desta.config import ConnectorConfig, PadTo
from nemo_desta.data.conversation import IGNORE, AudioLayout, Rendered, render
from nemo_desta.data.dataset import Clip, MicroBatch, StepBatch
from nemo_desta.data.packing import pack
from nemo_desta.models.desta import DestaModel, pad_taps
from nemo_desta.models.metering import EncoderMeter
from nemo_desta.models.steps import DataParallelSteps, Steps
from nemo_desta.models.throughput import Cost, peak_flops, peak_memory_bytes
from nemo_desta.modules.perception import Perception
from nemo_desta.modules.whisper import WhisperTaps
from nemo_desta.parallel.shapes import LLAMA_8B
from nemo_desta.parallel.weights import Piece

ROOT = Path(__file__).resolve().parents[1]
RATE, ENCODER_SEED = 16_000, 2
VARIANTS = {
    "plain": "the reference's way",
    "hf-30s": "hf backbone, clips padded to 30 s: the same maths as plain",
    "hf": "hf backbone",
    "megatron": "megatron backbone",
    "reference": "the reference repository's model code (--reference)",
}
WITHOUT_REFERENCE = [name for name in VARIANTS if name != "reference"]


@dataclass(frozen=True)
class Preset:
    """Sizes of a benchmark.

    Attributes:
        rows: of a step.
        shortest, longest: seconds of a clip; lengths are spread evenly.
        prompt, answer: tokens of a row before and of the labelled response, without the audio; rows vary by a third.
        half: bf16, not fp32.
        recipe: the prompts are questions of the pool, rendered with the mini recipe's system prompt; ``prompt`` is not used. Else all tokens are random.
    """

    rows: int
    shortest: float
    longest: float
    prompt: int
    answer: int
    connector: ConnectorConfig
    llm: LlamaConfig | str
    encoder: WhisperConfig | str
    half: bool = False
    recipe: bool = False


TINY_LLM = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
TINY_ENCODER = WhisperConfig(d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1)
LARGE_V3 = WhisperConfig(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=128, decoder_layers=1)
MINI: dict[str, Any] = {"num_layers": 2, "num_queries": 16, "ffn_size": 1024, "dropout": 0.0}
MINI_LLM, MINI_ENCODER = "asset://smollm2-135m-instruct", "asset://whisper-base"
# Of the mini recipe: its taps, placeholder and system prompt; of its lean training set: clips of 0.85 to 5.9 s (first and ninth decile, mean 3.4 s).
MINI_RECIPE = ConnectorConfig(**MINI, taps=[1, 3])
PLACEHOLDER, SYSTEM = "<filename>", "Focus on the audio clips and instructions. Answer in English in one short sentence."
PRESETS = {
    "tiny": Preset(6, 0.5, 4.0, 24, 8, ConnectorConfig(num_layers=1, num_queries=4, ffn_size=48, dropout=0.0, taps=[0, 2]), TINY_LLM, TINY_ENCODER),
    "mini": Preset(16, 0.85, 5.9, 0, 9, MINI_RECIPE, MINI_LLM, MINI_ENCODER, recipe=True),
    "mini-long": Preset(16, 1.0, 10.0, 60, 20, ConnectorConfig(**MINI, taps=[1, 3, 5]), MINI_LLM, MINI_ENCODER),
    "desta25-shape": Preset(12, 2.0, 30.0, 120, 100, ConnectorConfig(dropout=0.0, taps=[7, 15, 23, 31]), LLAMA_8B, LARGE_V3, half=True),
}


@dataclass(frozen=True)
class Row:
    """A row and its sound."""

    rendered: Rendered
    samples: Tensor


def rows_of(preset: Preset, vocabulary: int) -> list[Row]:
    """Noise of many lengths with made questions and answers: the same for every variant."""
    generator = torch.Generator().manual_seed(0)
    contexts = _recipe_contexts(preset) if preset.recipe else [_random_context(preset, vocabulary, generator) for _ in range(preset.rows)]
    rows = []
    for index, context in enumerate(contexts):
        share = index / max(preset.rows - 1, 1)
        answer = torch.randint(3, vocabulary, (_vary(preset.answer, generator),), generator=generator).tolist()
        ids, labels = context.input_ids + answer, [IGNORE] * len(context.input_ids) + answer
        seconds = preset.shortest + share * (preset.longest - preset.shortest)
        samples = 0.1 * torch.randn(int(seconds * RATE), generator=generator)
        rows.append(Row(Rendered(ids, context.audio_spans, [], labels, 0), samples))
    return rows


def _vary(count: int, generator: torch.Generator) -> int:
    return int(count * (2 / 3 + 2 / 3 * torch.rand((), generator=generator))) + 1


def _random_context(preset: Preset, vocabulary: int, generator: torch.Generator) -> Rendered:
    """Random tokens with the audio in the middle."""
    prompt, queries = _vary(preset.prompt, generator), preset.connector.num_queries
    return Rendered(torch.randint(3, vocabulary, (prompt + queries,), generator=generator).tolist(), [(prompt // 2, queries)])


def _recipe_contexts(preset: Preset) -> list[Rendered]:
    """Questions of the pool, spread over it, as the mini recipe renders them for a clip without a transcript."""
    from transformers import AutoTokenizer

    from nemo_desta.generation.plan import make_messages
    from nemo_desta.seed.prompts import load_pool

    tokenizer = AutoTokenizer.from_pretrained(_located(str(preset.llm)))
    layout = AudioLayout(PLACEHOLDER, preset.connector.num_queries)
    questions = [prompt.text for prompt in load_pool().for_small_backbone() if prompt.kind == "attribute"]
    chosen = [questions[index * len(questions) // preset.rows] for index in range(preset.rows)]
    return [render(make_messages(question, SYSTEM), tokenizer, layout, transcripts=[None]) for question in chosen]


class RandomReader:
    """Random weights for a megatron backbone, made when they are asked for."""

    def __init__(self, config: LlamaConfig) -> None:
        with torch.device("meta"):
            self.state = AutoModelForCausalLM.from_config(config).state_dict()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return tuple(self.state[name].shape)

    def read(self, piece: Piece) -> Tensor:
        """Noise of the initial scale; ones for norms."""
        shape = list(self.shape(piece.source))
        shape[piece.dim] = piece.stop - piece.start
        return torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape)


def build(preset: Preset, variant: str, device: torch.device) -> tuple[DestaModel, Steps, int]:
    """Model, way of taking steps, and vocabulary of a variant; the same encoder and connector for all."""
    dtype = torch.bfloat16 if preset.half else torch.float32
    topology: Any = None
    if variant == "megatron":
        from nemo_desta.backbones.megatron import MegatronBackbone
        from nemo_desta.models.parallel_steps import ParallelSteps
        from nemo_desta.parallel.plan import ParallelSizes
        from nemo_desta.parallel.topology import start

        topology = start(ParallelSizes())
        if isinstance(preset.llm, str):
            backbone: Any = MegatronBackbone.from_pretrained(_located(preset.llm), topology, dtype=dtype)
        else:
            reader = _saved_or_random(preset.llm, device)
            backbone = MegatronBackbone(preset.llm, topology, reader, dtype=dtype)
        vocabulary = backbone.config.vocab_size
    else:
        torch.manual_seed(1)
        with torch.device(device):
            named = isinstance(preset.llm, str)
            backbone = HFBackbone.from_pretrained(_located(str(preset.llm)), dtype=dtype) if named else HFBackbone.from_config(preset.llm, dtype=dtype)
        vocabulary = backbone.base.config.vocab_size
    torch.manual_seed(ENCODER_SEED)
    taps = preset.connector.taps
    if isinstance(preset.encoder, str):
        encoder = WhisperTaps.from_pretrained(_located(preset.encoder), taps=taps)
    else:
        encoder = WhisperTaps.from_config(preset.encoder, taps)
    if variant in ("plain", "hf-30s", "reference"):
        encoder.pad_to = PadTo.thirty_seconds
    perception = Perception.build(encoder.to(dtype), preset.connector, llm_dim=backbone.hidden_size)
    tokenizer: Any = None
    model = DestaModel(perception, backbone, tokenizer, AudioLayout("<none>", preset.connector.num_queries, None), CheckpointConfig("-", "-"), topology)
    steps: Steps = DataParallelSteps(0, device) if topology is None else ParallelSteps(topology)
    return model.to(device).eval(), steps, vocabulary


def _located(ref: str) -> str:
    from nemo_desta.assets import resolve_model

    return str(resolve_model(ref))


def _saved_or_random(config: LlamaConfig, device: torch.device) -> Any:
    """On the CPU the hf variant's own random weights, so that losses can be compared; on a GPU others of the same shapes."""
    if device.type == "cuda":
        return RandomReader(config)
    from nemo_desta.parallel.weights_io import StateReader

    torch.manual_seed(1)
    return StateReader(AutoModelForCausalLM.from_config(config).state_dict())


def plain_step(model: DestaModel, rows: Sequence[Row]) -> float:
    """Forward and backward in the reference's way; returns the mean token loss."""
    backbone, device = model.backbone, model.device
    assert isinstance(backbone, HFBackbone)
    vectors = _adapter_per_tap(model, [row.samples for row in rows])
    pads, ids, labels, mask = left_padded([row.rendered for row in rows], device)
    embeds = backbone.embed(ids).detach().clone()
    for index, (pad, row) in enumerate(zip(pads, rows, strict=True)):
        start, length = row.rendered.audio_spans[0]
        embeds[index, pad + start : pad + start + length] = vectors[index].to(embeds.dtype)
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    logits = backbone.llm(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions, use_cache=False).logits.float()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    loss.backward()
    return float(loss.detach())


def left_padded(rows: Sequence[Rendered], device: torch.device) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """(padding of each row, ids, labels, mask of real tokens), the last three [rows, longest]."""
    width = max(len(row.input_ids) for row in rows)
    pads = [width - len(row.input_ids) for row in rows]
    ids = torch.tensor([[0] * pad + row.input_ids for pad, row in zip(pads, rows, strict=True)], device=device)
    labels = torch.tensor([[IGNORE] * pad + row.labels for pad, row in zip(pads, rows, strict=True)], device=device)
    mask = torch.arange(width, device=device)[None] >= torch.tensor(pads, device=device)[:, None]
    return pads, ids, labels, mask


def _adapter_per_tap(model: DestaModel, samples: Sequence[Tensor]) -> Tensor:
    connector = model.perception.connector
    taps, _ = pad_taps(model.taps([Clip("", samples_T=s) for s in samples]), model.device)
    taps = taps.to(connector.layer_weights.dtype)
    outputs = [connector.qformer(connector.layer_prompts[n], taps[n : n + 1], None) for n in range(connector.num_taps)]
    mix = connector.layer_weights.softmax(dim=-1).T[:, None, :, None]
    projected: Tensor = connector.proj((torch.cat(outputs) * mix).sum(dim=0))
    return projected


def packed_step(model: DestaModel, steps: Steps, rows: Sequence[Row]) -> float:
    """The same rows in this project's way."""
    packed = pack([row.rendered for row in rows], [[i] for i in range(len(rows))], model.layout.num_queries)
    batch = steps.share(StepBatch([MicroBatch(packed, [Clip("", samples_T=row.samples) for row in rows])], []))
    return steps.run(model, batch.micro_batches, model.trainable_parameters())[0]


Step = tuple[Callable[[], float], list[nn.Parameter]]


def step_of(model: DestaModel, steps: Steps, variant: str, rows: Sequence[Row]) -> Step:
    """A variant's step, which returns the loss, and what it trains."""
    if variant == "plain":
        return lambda: plain_step(model, rows), model.trainable_parameters()
    return lambda: packed_step(model, steps, rows), model.trainable_parameters()


def step_of_reference(checkout: Path, model: DestaModel, preset: Preset, rows: Sequence[Row]) -> Step:
    """The same for the reference repository's code."""
    from tools.reference_training import build_reference, reference_step

    reference = build_reference(checkout, model, _hf_encoder(preset))
    pads, ids, labels, mask = left_padded([row.rendered for row in rows], model.device)
    starts = [pad + row.rendered.audio_spans[0][0] for pad, row in zip(pads, rows, strict=True)]
    samples = [row.samples for row in rows]
    return lambda: reference_step(reference, model, samples, starts, (ids, labels, mask)), [p for p in reference.parameters() if p.requires_grad]


def _hf_encoder(preset: Preset) -> nn.Module:
    """The encoder of `build` as transformers has it."""
    from transformers import WhisperModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    dtype = torch.bfloat16 if preset.half else torch.float32
    if isinstance(preset.encoder, str):
        return WhisperModel.from_pretrained(_located(preset.encoder), dtype=dtype).encoder
    torch.manual_seed(ENCODER_SEED)
    return WhisperEncoder(preset.encoder).to(dtype)


def measure(name: str, variant: str, repeats: int, checkout: Path | None = None) -> dict[str, Any]:
    """One variant in this process: a first step that is not counted, then ``repeats`` of them."""
    warnings.filterwarnings("ignore")
    preset, device = PRESETS[name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, steps, vocabulary = build(preset, variant, device)
    rows = rows_of(preset, vocabulary)
    step, trained = step_of_reference(checkout, model, preset, rows) if checkout and variant == "reference" else step_of(model, steps, variant, rows)
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    loss, clock, cpu, encoder = _timed(step, optimizer, model.meter, device, repeats)
    frames, encoder_seconds = encoder
    tokens = sum(len(row.rendered.input_ids) for row in rows)
    labels = sum(sum(label != IGNORE for label in row.rendered.labels) for row in rows)
    flops = Cost.of(model).flops(tokens, labels, frames / repeats)
    peak = peak_flops(device)
    return {
        "variant": variant,
        "loss": loss,
        "clips_per_second": len(rows) / clock,
        "tokens_per_second": tokens / clock,
        "cpu_seconds_per_clip": cpu / len(rows),
        "encoder_share": encoder_seconds / repeats / clock,
        "peak_gib": peak_memory_bytes(device) / 2**30,
        "model_tflops": flops / clock / 1e12,
        "mfu": flops / clock / peak if peak else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _timed(
    step: Callable[[], float], optimizer: torch.optim.Optimizer, meter: EncoderMeter, device: torch.device, repeats: int
) -> tuple[float, float, float, tuple[int, float]]:
    """(loss, seconds a step by the clock, CPU seconds a step, encoder's frames and seconds over all)."""

    def sync() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    loss = step()
    optimizer.zero_grad()
    meter.take()
    sync()
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        loss = step()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    sync()
    return loss, (time.perf_counter() - clock) / repeats, (time.process_time() - cpu) / repeats, meter.take()


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--repeats", type=int, default=3, help="counted steps of every variant")
    parser.add_argument("--variants", nargs="+", choices=WITHOUT_REFERENCE, default=WITHOUT_REFERENCE)
    parser.add_argument("--reference", type=Path, metavar="CHECKOUT", help="a clone of github.com/kehanlu/DeSTA2.5-Audio, whose model code is measured too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    parser.add_argument("--alone", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    name = args.preset
    if name == "desta25-shape" and not torch.cuda.is_available():
        print("no NVIDIA GPU: the mini preset takes the place of desta25-shape", file=sys.stderr)
        name = "mini"
    if args.alone:
        print(json.dumps(measure(name, args.alone, args.repeats, args.reference)))
        return 0
    variants = [*args.variants, *(["reference"] if args.reference else [])]
    results = []
    for variant in variants:
        results.append(_in_own_process(name, variant, args.repeats, args.reference))
        if args.json:
            print(json.dumps(results[-1]), flush=True)
    if not args.json:
        _print_table(name, results)
    return 0


def _in_own_process(name: str, variant: str, repeats: int, checkout: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "tools.bench_training", "--preset", name, "--repeats", str(repeats), "--alone", variant]
    command += ["--reference", str(checkout.resolve())] if checkout else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _print_table(name: str, results: Sequence[dict[str, Any]]) -> None:
    preset = {k: v for k, v in asdict(PRESETS[name]).items() if k in ("rows", "shortest", "longest", "prompt", "answer", "recipe")}
    print(f"preset {name} {preset} on {results[0]['device']}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    base = next((r for r in results if r["variant"] == "plain"), results[0])
    print(f"{'variant':10} {'loss':>9} {'clips/s':>8} {'x':>6} {'CPU s/clip':>10} {'x':>6} {'peak GiB':>8} {'encoder':>8} {'TFLOP/s':>8} {'MFU':>6}")
    for r in results:
        mfu = f"{r['mfu']:6.1%}" if r["mfu"] else "     -"
        ratios = r["clips_per_second"] / base["clips_per_second"], base["cpu_seconds_per_clip"] / r["cpu_seconds_per_clip"]
        first = f"{r['variant']:10} {r['loss']:9.5f} {r['clips_per_second']:8.2f} {ratios[0]:6.2f} {r['cpu_seconds_per_clip']:10.3f} {ratios[1]:6.2f}"
        print(f"{first} {r['peak_gib']:8.2f} {r['encoder_share']:8.1%} {r['model_tflops']:8.3f} {mfu}")
    print("; ".join(f"{r['variant']}: {VARIANTS[r['variant']]}" for r in results))


if __name__ == "__main__":
    sys.exit(main())
