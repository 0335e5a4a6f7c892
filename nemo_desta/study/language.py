"""What training did to the backbone's language: answers kept, instructions followed, and how likely the old answers still are.

Without LoRA the backbone's weights never move and all three must be those of the untouched model; they are measured all the same.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nemo_desta.assets import resolve_model
from nemo_desta.backbones.hf import HFBackbone, resolve_dtype
from nemo_desta.config import ModelConfig
from nemo_desta.data.conversation import render_text
from nemo_desta.evaluation.ifeval import ensure_punkt, follows
from nemo_desta.evaluation.stats import wilson
from nemo_desta.generation.perplexity import Scorer, TargetText, distribution
from nemo_desta.models import DestaModel
from nemo_desta.models.build import checkpoint_config, layout_of, load_tokenizer

logger = logging.getLogger(__name__)

INSTRUCTIONS_PATH = Path(__file__).with_name("instructions.yaml")
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Instruction:
    """A text-only prompt and the rule that its answer must follow."""

    prompt: str
    rule: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def load_instructions(count: int, path: Path = INSTRUCTIONS_PATH) -> list[Instruction]:
    """The first `count` instructions.

    Raises:
        ValueError: the file has fewer.
    """
    found = [Instruction(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    if not 0 <= count <= len(found):
        raise ValueError(f"instructions={count}, but {path.name} holds {len(found)}: ask for 0 to {len(found)}")
    return found[:count]


def ready_rules(instructions: Sequence[Instruction]) -> None:
    """Fetch what the rules of these instructions count with: before the first arm trains, not after.

    Raises:
        AssetError: it cannot be fetched.
    """
    if any(instruction.rule == "length_constraints:number_sentences" for instruction in instructions):
        ensure_punkt()


def instruction_following(model: DestaModel, instructions: Sequence[Instruction]) -> dict[str, Any]:
    """Ask all instructions greedily, as one batch.

    Returns:
        ``{"followed", "instructions", "rate", "ci95", "rows": [{"prompt", "answer", "followed"}]}``; rate and interval are None where nothing was asked.
    """
    prompts = [[{"role": "user", "content": instruction.prompt}] for instruction in instructions]
    texts = [output.text for output in model.generate(prompts, max_new_tokens=MAX_NEW_TOKENS)]
    verdicts = [follows(i.rule, i.arguments, text) for i, text in zip(instructions, texts, strict=True)]
    rows = [{"prompt": i.prompt, "answer": t, "followed": v} for i, t, v in zip(instructions, texts, verdicts, strict=True)]
    interval = wilson(sum(verdicts), len(verdicts)) if verdicts else None
    return {
        "followed": sum(verdicts),
        "instructions": len(verdicts),
        "rate": sum(verdicts) / len(verdicts) if verdicts else None,
        "ci95": interval,
        "rows": rows,
    }


def answer_perplexity(model: DestaModel, answers: Sequence[Mapping[str, str]]) -> float | None:
    """Perplexity, under this model, of the answers that the untouched backbone gave to the retention prompts; None where there are none.

    Args:
        answers: rows of `nemo_desta.evaluation.retention.compare`: ``prompt`` and ``before``.
    """
    if not answers:
        return None
    contexts = [render_text([{"role": "user", "content": row["prompt"]}], model.tokenizer) for row in answers]
    texts = [TargetText(str(n), "text", context, row["before"]) for n, (context, row) in enumerate(zip(contexts, answers, strict=True))]
    assert isinstance(model.backbone, HFBackbone)
    return float(distribution(Scorer(model.backbone.llm, tokenizer=model.tokenizer).score(texts))["perplexity"])


def language_quality(model: DestaModel, instructions: Sequence[Instruction], answers: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Instructions followed, and the perplexity of the untouched backbone's answers."""
    return {"instructions": instruction_following(model, instructions), "answer_perplexity": answer_perplexity(model, answers)}


def untouched(cfg: ModelConfig) -> DestaModel:
    """The backbone as it was before training; it hears nothing."""
    backbone = HFBackbone.from_pretrained(resolve_model(cfg.llm), dtype=resolve_dtype(cfg.llm_precision))
    card = checkpoint_config(cfg, taps=[], max_transcript_tokens=None)
    return DestaModel(None, backbone, load_tokenizer(cfg.llm), layout_of(cfg, None), card)
