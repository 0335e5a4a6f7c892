"""Language retention: does the model with its trained connector answer text exactly as the untouched language model does?

The backbone is loaded afresh from where it came from, answers a fixed list of prompts greedily through its own chat template, and the trained model answers
the same prompts through its own interface; the answers must be the same bytes. Prompts are asked one at a time on both sides: padding changes rounding, and
a comparison to the byte must not depend on it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track

from nemo_desta.data.conversation import TEMPLATE_DATE
from nemo_desta.evaluation.model import AudioModel

logger = logging.getLogger(__name__)

PROMPTS_PATH = Path(__file__).with_name("retention_prompts.yaml")


@dataclass(frozen=True)
class Answer:
    """A text-only answer; the token ids without end-of-turn where they are known."""

    text: str
    ids: tuple[int, ...] | None = None

    def same(self, other: "Answer") -> bool:
        """Same bytes, and the same tokens where both sides know theirs."""
        return self.text.encode() == other.text.encode() and (self.ids is None or other.ids is None or self.ids == other.ids)


def load_prompts(count: int, path: Path = PROMPTS_PATH) -> list[str]:
    """The first `count` prompts.

    Raises:
        ValueError: the file has fewer.
    """
    prompts = [str(p) for p in yaml.safe_load(path.read_text(encoding="utf-8"))]
    if not 0 <= count <= len(prompts):
        raise ValueError(f"eval.retention_prompts={count}, but {path.name} holds {len(prompts)}: ask for 0 to {len(prompts)}")
    return prompts[:count]


def plain_answers(backbone: str | Path, prompts: Sequence[str], *, max_new_tokens: int, dtype: Any, system_prompt: str | None = None) -> list[Answer]:
    """Greedy answers of the untouched backbone.

    Args:
        backbone: directory or Hugging Face id.
        dtype: torch dtype, the one that the trained model's backbone has.
        system_prompt: of the conversation; None leaves the turn out (a chat template may then write its own).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    llm = AutoModelForCausalLM.from_pretrained(backbone, dtype=dtype, attn_implementation="sdpa").eval()
    llm.to("cuda" if torch.cuda.is_available() else "cpu")
    own = llm.generation_config
    # The published generation settings may sample or penalise; only their stop tokens belong to a greedy answer.
    pad = own.pad_token_id if own.pad_token_id is not None else tokenizer.eos_token_id
    greedy = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=own.eos_token_id, pad_token_id=pad)
    answers = []
    for prompt in track(prompts, description="text-only answers, plain backbone"):
        text = tokenizer.apply_chat_template(_messages(prompt, system_prompt), tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(llm.device)
        with torch.inference_mode():
            output = llm.generate(**inputs, generation_config=greedy)
        answers.append(_answer(tokenizer, output[0, inputs["input_ids"].shape[1] :].tolist()))
    return answers


def _answer(tokenizer: Any, ids: list[int]) -> Answer:
    """Decode as the model's own interface does: special tokens dropped, blanks at the ends stripped."""
    return Answer(tokenizer.decode(ids, skip_special_tokens=True).strip(), tuple(i for i in ids if i not in tokenizer.all_special_ids))


def trained_answers(
    model: AudioModel, prompts: Sequence[str], *, max_new_tokens: int, system_prompt: str | None = None, special_ids: Sequence[int] = ()
) -> list[Answer]:
    """The trained model's answers to the same prompts, without audio."""
    answers = []
    for prompt in track(prompts, description="text-only answers, trained model"):
        (output,) = model.generate([_messages(prompt, system_prompt)], max_new_tokens=max_new_tokens, do_sample=False)
        ids = getattr(output, "generated_ids", None)
        answers.append(Answer(output.text.strip(), None if ids is None else tuple(i for i in ids if i not in special_ids)))
    return answers


def compare(prompts: Sequence[str], before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
    """Compare the answers.

    Returns:
        ``{"identical": all equal, "prompts": how many, "different": how many differ, "rows": [{"prompt", "before", "after", "identical"}]}``;
        "identical" is None where nothing was asked.
    """
    rows = [{"prompt": prompt, "before": b.text, "after": a.text, "identical": b.same(a)} for prompt, b, a in zip(prompts, before, after, strict=True)]
    different = [row for row in rows if not row["identical"]]
    for row in different:
        logger.warning("the text-only answer to %r changed: before %r, after %r", row["prompt"], row["before"], row["after"])
    return {"identical": not different if rows else None, "prompts": len(rows), "different": len(different), "rows": rows}


def check_retention(
    model: Any, prompts: Sequence[str], *, backbone: str | Path, dtype: Any, max_new_tokens: int = 64, system_prompt: str | None = None
) -> dict[str, Any]:
    """Ask the untouched backbone and the trained model, and compare; see `compare`.

    Args:
        model: the trained model; its ``tokenizer`` names the special tokens, if it has one.
        backbone: where the untouched language model lies (directory or Hugging Face id).
        dtype: torch dtype of the trained model's backbone.
    """
    special = getattr(getattr(model, "tokenizer", None), "all_special_ids", ())
    before = plain_answers(backbone, prompts, max_new_tokens=max_new_tokens, dtype=dtype, system_prompt=system_prompt)
    after = trained_answers(model, prompts, max_new_tokens=max_new_tokens, system_prompt=system_prompt, special_ids=special)
    return {**compare(prompts, before, after), "max_new_tokens": max_new_tokens, "system_prompt": system_prompt}


def _messages(prompt: str, system_prompt: str | None) -> list[dict[str, str]]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": prompt}]
