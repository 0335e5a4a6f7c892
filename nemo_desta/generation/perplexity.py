"""How surprising targets are to the backbone (the paper's argument for self-generation: its own targets lie in its own distribution).

The score of a row is the mean negative log-likelihood of its response, end-of-turn token included, behind the rendered prompt with the seed description: the
distribution that the frozen backbone keeps while the connector learns. Shape legend: B rows, S tokens, R response tokens of the longest row, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor, nn
from torch.nn import functional

from nemo_desta.backbones.hf import resolve_dtype
from nemo_desta.config import Precision
from nemo_desta.data.conversation import Tokenizer, render_text
from nemo_desta.data.supervision import self_generated
from nemo_desta.generation.engines.tokens import encode, load_chat_tokenizer
from nemo_desta.seed.describe import describe


@dataclass(frozen=True)
class TargetText:
    """One target as the backbone reads it."""

    row_id: str
    kind: str
    context: str
    response: str


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood (nats) of a response, and its tokens."""

    row_id: str
    kind: str
    nll: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """Of this row."""
        return math.exp(self.nll / self.tokens)


def target_texts(cuts: Iterable[Cut], tokenizer: Tokenizer) -> list[TargetText]:
    """All rows of a set: the prompt with the description that the backbone read, and the response."""
    texts = []
    for cut in cuts:
        whole = (getattr(cut, "custom", None) or {}).get("seed_description") or describe(cut)
        for row in self_generated(cut):
            custom = row.custom or {}
            generator = custom.get("generator") or {}
            seeds = generator.get("seed_texts") or [generator.get("seed_text") or whole]
            kind = (custom.get("attribute") if len(seeds) == 1 else None) or custom.get("prompt_kind") or "open"
            texts.append(TargetText(row.id, kind, render_text(custom["messages"], tokenizer, seeds), (row.text or "").strip()))
    return texts


class Scorer:
    """The backbone as a judge of texts.

    Args:
        model: directory or Hugging Face id of a causal LM with a chat template, or the LLM itself.
        precision: of the weights, where they are loaded.
        device: where they are loaded to; default: a GPU where there is one.
        tokenizer: of an LLM that is there.
    """

    def __init__(
        self, model: str | Path | nn.Module, precision: Precision = Precision.auto, device: str | None = None, *, tokenizer: Tokenizer | None = None
    ) -> None:
        self.model: Any
        if isinstance(model, nn.Module):
            assert tokenizer is not None
            self.model, self.tokenizer, self.device = model.eval(), tokenizer, next(model.parameters()).device
            return
        from transformers import AutoModelForCausalLM

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = load_chat_tokenizer(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=resolve_dtype(precision, self.device)).to(self.device).eval()

    def score(self, texts: Sequence[TargetText], batch_tokens: int = 4096) -> list[Score]:
        """Scores in the order of the texts; rows of like length are computed together, at most `batch_tokens` padded tokens at once."""
        contexts = encode(self.tokenizer, [t.context for t in texts])
        responses = [[*ids, self.tokenizer.eos_token_id] for ids in encode(self.tokenizer, [t.response for t in texts])]
        order = sorted(range(len(texts)), key=lambda i: len(contexts[i]) + len(responses[i]))
        batches: list[list[int]] = []
        for i in order:
            if not batches or (len(contexts[i]) + len(responses[i])) * (len(batches[-1]) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(i)
        sums: dict[int, float] = {}
        for batch in batches:
            sums.update(zip(batch, self._sums([contexts[i] for i in batch], [responses[i] for i in batch]), strict=True))
        return [Score(t.row_id, t.kind, sums[i], len(responses[i])) for i, t in enumerate(texts)]

    @torch.inference_mode()
    def _sums(self, contexts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[float]:
        """Summed negative log-likelihood of every response; rows are padded on the left, so that all responses end together."""
        rows = [c + r for c, r in zip(contexts, responses, strict=True)]
        width, longest = max(map(len, rows)), max(map(len, responses))
        ids_BS = torch.tensor([[0] * (width - len(r)) + r for r in rows], device=self.device)
        mask_BS = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=self.device)
        position_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)
        logits_BRV: Tensor = self.model(ids_BS, attention_mask=mask_BS, position_ids=position_BS, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1]
        nll_BR = functional.cross_entropy(logits_BRV.float().transpose(1, 2), ids_BS[:, -longest:], reduction="none")
        own_BR = torch.tensor([[0.0] * (longest - len(r)) + [1.0] * len(r) for r in responses], device=self.device)
        return (nll_BR * own_BR).sum(1).tolist()


def distribution(scores: Sequence[Score]) -> dict[str, Any]:
    """Rows, tokens, perplexity over all tokens, and quantiles of the perplexities of the rows."""
    rows = np.array([s.nll / s.tokens for s in scores])
    tokens = sum(s.tokens for s in scores)
    low, middle, high = (round(float(q), 3) for q in np.exp(np.quantile(rows, [0.1, 0.5, 0.9])))
    total = round(math.exp(sum(s.nll for s in scores) / tokens), 3)
    return {"rows": len(scores), "tokens": tokens, "perplexity": total, "row_p10": low, "row_median": middle, "row_p90": high}


def compare(sets: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    """Distributions by set and prompt kind; and, against the first set, on how many of the rows that both have the first is the less surprising.

    Raises:
        ValueError: a set without rows.
    """
    if empty := [name for name, scores in sets.items() if not scores]:
        raise ValueError(f"no targets in {', '.join(empty)}")
    first, *others = sets
    report: dict[str, Any] = {"sets": {}, "paired": {}}
    for name, scores in sets.items():
        kinds: dict[str, list[Score]] = defaultdict(list)
        for score in scores:
            kinds[score.kind].append(score)
        report["sets"][name] = {**distribution(scores), "by_kind": {kind: distribution(kinds[kind]) for kind in sorted(kinds)}}
    own = {s.row_id: s.nll / s.tokens for s in sets[first]}
    for name in others:
        pairs = [(own[s.row_id], s.nll / s.tokens) for s in sets[name] if s.row_id in own]
        lower = sum(a < b for a, b in pairs) / len(pairs) if pairs else None
        gap = sum(b - a for a, b in pairs) / len(pairs) if pairs else None
        report["paired"][name] = {"rows": len(pairs), "first_is_lower": lower, "mean_nats_per_token_above_first": gap}
    return report


def plot(sets: Mapping[str, Sequence[Score]], path: Path) -> None:
    """Histograms of the rows' perplexities (log axis) and, beside them, their cumulative distributions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = {name: np.array([s.perplexity for s in scores]) for name, scores in sets.items()}
    everything = np.concatenate(list(values.values()))
    edges = np.geomspace(max(1.0, everything.min() * 0.95), everything.max() * 1.05, 50)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, perplexities in values.items():
        label = f"{name} (median {np.median(perplexities):.2f}, n {len(perplexities)})"
        left.hist(perplexities, edges, alpha=0.5, density=False, weights=np.full(len(perplexities), 1 / len(perplexities)), label=label)
        right.plot(np.sort(perplexities), np.arange(1, len(perplexities) + 1) / len(perplexities), label=name)
    left.set(xscale="log", xlabel="perplexity of a target under the backbone", ylabel="share of the targets")
    right.set(xscale="log", xlabel="perplexity", ylabel="share of the targets at or below")
    left.legend()
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
