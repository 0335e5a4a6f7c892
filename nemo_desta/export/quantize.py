"""FP8 and INT4-AWQ through NVIDIA's ModelOpt, calibrated on prompts with audio in them.

Audio vectors lie outside the distribution of token embeddings, so a calibration on text would set wrong ranges. Only the decoder layers' linear maps
are quantised; embeddings, output layer, encoder and connector stay as they are. ModelOpt is an optional dependency
(``pip install 'nvidia-modelopt>=0.47,<0.48' requests``); its exporter of TensorRT-LLM checkpoints is gone from 0.49.

Shape suffixes: T tokens, H LLM width.
"""

import copy
import importlib
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_desta.export.accuracy import HeldOutQuestions
from nemo_desta.export.hf_checkpoint import both_versions, write_tokenizer
from nemo_desta.export.onnx_tower import in_dtype
from nemo_desta.export.reference import QUESTIONS, prompt_embeds, rendered_prompt
from nemo_desta.export.settings import ExportConfig, Quantization, Target
from nemo_desta.export.source import Source, load_clips
from nemo_desta.export.trtllm_checkpoint import FAMILIES, LlmShape, checkpoint_config

if TYPE_CHECKING:
    from nemo_desta.models import DestaModel

logger = logging.getLogger(__name__)
RECIPES = {Quantization.fp8: "FP8_DEFAULT_CFG", Quantization.int4_awq: "INT4_AWQ_CFG"}
MODELOPT_NAMES = {"llama": "llama", "qwen2": "qwen", "qwen3": "qwen"}
INSTALL = "pip install 'nvidia-modelopt>=0.47,<0.48' requests"


@dataclass(frozen=True)
class Row:
    """A prompt with its clips' vectors in place, and, where it is from the training set, the response behind it.

    Attributes:
        embeds_TH: of prompt and response.
        labels_T: ids of the response at their places, -100 elsewhere.
    """

    embeds_TH: Tensor
    labels_T: Tensor


def require_modelopt() -> None:
    """Fail early where ModelOpt is missing.

    Raises:
        ValueError: with the command that installs it.
    """
    if importlib.util.find_spec("modelopt") is None:
        raise ValueError(f"quantization needs ModelOpt: {INSTALL}")


def quantised_llm(model: "DestaModel", source: Source, cfg: ExportConfig, *, measure: bool = True) -> tuple[Any, dict[str, Any], Callable[[], None]]:
    """A quantised copy of the LLM, a report for the manifest, and a function that adds to the report what the quantisation costs.

    The cost is perplexity and accuracy before and after, on what the LLM was not calibrated with. The function is called when the LLM is as it was
    written: ModelOpt's exporter of TensorRT-LLM checkpoints gives projections with one input a common smoothing, which rounds them once more.

    Args:
        model: the PyTorch model.
        source: of the export.
        cfg: of the export.
        measure: perplexity and accuracy; where a bundle has the quantised LLM in two forms, once is enough.
    """
    assert cfg.quantization is not None
    quantization: Any = importlib.import_module("modelopt.torch.quantization")
    calibration, heldout = rows_for(model, cfg)
    questions = _questions(cfg) if measure else None
    heldout = heldout if measure else []
    backbone: Any = model.backbone
    llm: Any = in_dtype(backbone.base, cfg.dtype)
    llm.config._attn_implementation = "sdpa"
    llm.config.architectures = [FAMILIES[source.llm_raw["model_type"]]]
    before = _figures(model, llm, heldout, questions)
    recipe = copy.deepcopy(getattr(quantization, RECIPES[cfg.quantization]))

    def look(module: Any) -> None:
        with torch.no_grad():
            for row in calibration:
                module(inputs_embeds=row.embeds_TH[None].to(llm.dtype))

    llm = quantization.quantize(llm, recipe, look)
    report: dict[str, Any] = {"algorithm": cfg.quantization.value, "calibration_rows": len(calibration), "heldout_rows": len(heldout)}
    report["heldout_questions"] = 0 if questions is None else len(questions.items)

    def cost() -> None:
        after = _figures(model, llm, heldout, questions)
        for name, value in before.items():
            report[f"{name}_before"], report[f"{name}_after"] = value, after[name]
            if value is not None:
                logger.info("%s: %s on held-out clips %.3f -> %.3f", report["algorithm"], name, value, after[name])

    return llm, report, cost


def _questions(cfg: ExportConfig) -> HeldOutQuestions | None:
    settings = cfg.calibration
    if settings.corpus is None or settings.questions == 0:
        return None
    return HeldOutQuestions(Path(settings.corpus), settings.questions, None if settings.targets is None else system_prompt_of(Path(settings.targets)))


def system_prompt_of(targets: Path) -> str | None:
    """The system prompt of the training rows, with which questions must be asked, too; "" where they have none, None without rows."""
    from lhotse import CutSet

    from nemo_desta.data.supervision import self_generated

    for cut in CutSet.from_file(targets):
        for row in self_generated(cut):
            first = row.custom["messages"][0]
            return str(first["content"]) if first["role"] == "system" else ""
    return None


def _figures(model: "DestaModel", llm: Any, heldout: Sequence[Row], questions: HeldOutQuestions | None) -> dict[str, float | None]:
    """What is compared before and after; None = not measured."""
    return {"perplexity": perplexity(llm, heldout), "accuracy": None if questions is None else questions.accuracy(model, llm)}


def write_quantised_trtllm(model: "DestaModel", source: Source, cfg: ExportConfig, folder: Path) -> dict[str, Any]:
    """A quantised TensorRT-LLM checkpoint by ModelOpt's exporter, its ``config.json`` completed.

    ModelOpt reads rope settings where transformers 4 kept them; with transformers 5 they would be missing and the engine would take a base of 10000.

    Raises:
        ValueError: this ModelOpt no longer writes such checkpoints.
    """
    exporter: Any = importlib.import_module("modelopt.torch.export")
    if not hasattr(exporter, "export_tensorrt_llm_checkpoint"):
        raise ValueError(f"this ModelOpt no longer writes TensorRT-LLM checkpoints: {INSTALL}")
    llm, report, cost = quantised_llm(model, source, cfg)
    shape = LlmShape.from_config(source.llm_raw)
    with torch.inference_mode():
        exporter.export_tensorrt_llm_checkpoint(
            llm,
            MODELOPT_NAMES[shape.family],
            getattr(torch, cfg.dtype.value),
            export_dir=folder,
            inference_tensor_parallel=cfg.tp,
            inference_pipeline_parallel=cfg.pp,
        )
    cost()
    path = folder / "config.json"
    theirs = json.loads(path.read_text(encoding="utf-8"))
    ours = checkpoint_config(shape, cfg.tp, cfg.pp, cfg.dtype)
    kept = {key: theirs[key] for key in ("quantization", "use_parallel_embedding", "embedding_sharding_dim", "share_embedding_table") if key in theirs}
    path.write_text(json.dumps(ours | kept, indent=2) + "\n", encoding="utf-8")
    return report


def write_quantised_hf(model: "DestaModel", source: Source, cfg: ExportConfig, folder: Path) -> dict[str, Any]:
    """A quantised Hugging Face checkpoint as TensorRT-LLM's PyTorch backend, vLLM and SGLang load it."""
    exporter: Any = importlib.import_module("modelopt.torch.export")
    llm, report, cost = quantised_llm(model, source, cfg, measure=Target.trtllm not in cfg.targets)
    cost()  # this exporter packs the weights in place
    with torch.inference_mode():
        exporter.export_hf_checkpoint(llm, export_dir=folder)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: written[key] for key in ("quantization_config",) if key in written}
    path.write_text(json.dumps(both_versions(source.llm_raw, cfg.dtype) | kept, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(model.tokenizer, folder)
    return report


def rows_for(model: "DestaModel", cfg: ExportConfig) -> tuple[list[Row], list[Row]]:
    """Rows for calibration, and others for perplexity (none without ``calibration.targets``).

    Raises:
        ValueError: ``calibration.targets`` cannot be read, or holds too few rows.
    """
    settings = cfg.calibration
    if settings.targets is None:
        clips, _ = load_clips(cfg.clips)
        return [_question(model, clip, QUESTIONS[i % len(QUESTIONS)]) for i, clip in enumerate(clips)], []
    rows = []
    for row in _target_rows(model, Path(settings.targets)):
        rows.append(row)
        if len(rows) == settings.rows + settings.heldout_rows:
            break
    if len(rows) < 2:
        raise ValueError(f"calibration.targets={settings.targets} holds {len(rows)} self-generated rows: give cuts_train.jsonl.gz of a generated corpus")
    share = min(settings.rows, max(1, len(rows) * settings.rows // (settings.rows + settings.heldout_rows)))
    return rows[:share], rows[share:]


def _question(model: "DestaModel", clip: Any, question: str) -> Row:
    """A clip with a plain question."""
    with torch.inference_mode():
        embeds = prompt_embeds(model, rendered_prompt(model, question, [0]), model.perception.listen([clip]))[0]
    return Row(embeds.clone(), torch.full((len(embeds),), -100))


def _target_rows(model: "DestaModel", path: Path) -> Iterator[Row]:
    """Rows of the training set, rendered as in training."""
    from lhotse import CutSet

    from nemo_desta.data.conversation import render
    from nemo_desta.data.dataset import load_samples
    from nemo_desta.data.supervision import CLIPS, self_generated, source_supervision

    if not path.is_file():
        raise ValueError(f"calibration.targets: there is no {path}")
    for cut in CutSet.from_file(path):
        own = [row for row in self_generated(cut) if not (row.custom or {}).get(CLIPS)]  # rows about one clip are enough to calibrate on
        if not own:
            continue
        with torch.inference_mode():
            vectors_1QH = model.perception.listen([load_samples(cut)])
        row, words = own[0], source_supervision(cut).text
        rendered = render(row.custom["messages"], model.tokenizer, model.layout, transcripts=[words], response=row.text)
        embeds = model.backbone.embed(torch.tensor(rendered.input_ids)).detach().clone()
        for start, length in rendered.audio_spans:
            embeds[start : start + length] = vectors_1QH[0].to(embeds.dtype)
        yield Row(embeds.clone(), torch.tensor(rendered.labels))


@torch.no_grad()
def perplexity(llm: Any, rows: Sequence[Row]) -> float | None:
    """Of the responses; None without rows."""
    total, count = 0.0, 0
    for row in rows:
        logits_TV = llm(inputs_embeds=row.embeds_TH[None].to(llm.dtype)).logits[0].float()
        total += float(F.cross_entropy(logits_TV[:-1], row.labels_T[1:], reduction="sum", ignore_index=-100))
        count += int((row.labels_T[1:] != -100).sum())
    return math.exp(total / count) if count else None
