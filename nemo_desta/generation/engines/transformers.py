"""In-process generation with a Hugging Face causal LM, made for short answers to many prompts that begin alike.

Shape legend: B prompts, P tokens of the shared beginning, S tokens of the longest rest, V vocabulary, N new tokens.

Two things make it faster than ``model.generate``: what all prompts of a batch begin with (system prompt, chat tags) is computed once, and finished rows
leave the batch. Greedy answers equal those of ``model.generate`` (in fp32 to the token; a test compares).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from nemo_desta.backbones.hf import resolve_dtype
from nemo_desta.config import Precision
from nemo_desta.generation.engines.base import LENGTH, STOP, Completion, Sampling, row_seed, whole_letters
from nemo_desta.generation.engines.tokens import encode, load_chat_tokenizer

logger = logging.getLogger(__name__)


class TransformersEngine:
    """Batched generation in this process.

    Args:
        model: directory or Hugging Face id of a causal LM with a chat template.
        sampling: temperature, top-p, length, seed.
        precision: of the weights.
        device: default: CUDA where there is one, else CPU.

    Raises:
        ValueError: the model has no chat template or no end-of-turn token.
    """

    name = "transformers"
    batches_in_flight = 1

    def __init__(self, model: str | Path, sampling: Sampling, precision: Precision = Precision.auto, device: str | None = None) -> None:
        self.sampling = sampling
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = resolve_dtype(precision, self.device)
        self.tokenizer = load_chat_tokenizer(model)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=self.dtype).to(self.device).eval()
        self.stop_ids = _stop_ids(self.model, self.tokenizer)
        if not self.stop_ids:
            raise ValueError(f"{model} names no end-of-turn token: set eos_token_id in its generation_config.json")
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.stop_ids)

    def describe(self) -> dict[str, Any]:
        """Precision, device and threads: results are reproducible where these are equal."""
        return {"engine": self.name, "dtype": str(self.dtype).removeprefix("torch."), "device": self.device.type, "threads": torch.get_num_threads()}

    def counters(self) -> dict[str, int]:
        """Nothing to count."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of every prompt in tokens."""
        return [len(ids) for ids in self._encode(prompts)]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return encode(self.tokenizer, prompts)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        """Answer a batch.

        Args:
            prompts: rendered chats ending with the generation prompt; the caller keeps a batch within its token budget.
            keys: row ids, one a prompt.
        """
        assert len(prompts) == len(keys)
        if not prompts:
            return []
        draws_BN = self._draws(keys)
        tokens, stopped = self._decode(self._encode(prompts), draws_BN)
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Completion(whole_letters(text), STOP if ended else LENGTH, len(ids)) for text, ids, ended in zip(texts, tokens, stopped, strict=True)]

    def _draws(self, keys: Sequence[str]) -> Tensor | None:
        """Uniform numbers of every row and step; None for greedy."""
        if self.sampling.temperature == 0:
            return None
        generators = [torch.Generator().manual_seed(row_seed(self.sampling.seed, key)) for key in keys]
        return torch.stack([torch.rand(self.sampling.max_new_tokens, generator=g, dtype=torch.float64) for g in generators]).to(self.device)

    def _decode(self, prompts: list[list[int]], draws_BN: Tensor | None) -> tuple[list[list[int]], list[bool]]:
        """Tokens of every answer and whether it ended by itself."""
        answers: list[list[int]] = [[] for _ in prompts]
        stopped = [False] * len(prompts)
        logits_BV, cache, mask_BT = self._prefill(prompts)
        position_B = torch.tensor([len(ids) for ids in prompts], device=self.device)
        alive = list(range(len(prompts)))
        for step in range(self.sampling.max_new_tokens):
            token_B = self._pick(logits_BV, None if draws_BN is None else draws_BN[alive, step])
            for row, token in zip(alive, token_B.tolist(), strict=True):
                answers[row].append(token)
                stopped[row] = token in self.stop_ids
            keep = [i for i, row in enumerate(alive) if not stopped[row]]
            if not keep or step + 1 == self.sampling.max_new_tokens:
                break
            if len(keep) < len(alive):
                rows = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(rows)
                token_B, position_B, mask_BT = token_B[rows], position_B[rows], mask_BT[rows]
                alive = [alive[i] for i in keep]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], dim=1)
            out = self.model(token_B[:, None], attention_mask=mask_BT, position_ids=position_B[:, None], past_key_values=cache, use_cache=True)
            logits_BV, position_B = out.logits[:, -1], position_B + 1
        return answers, stopped

    def _prefill(self, prompts: list[list[int]]) -> tuple[Tensor, DynamicCache, Tensor]:
        """Logits after every prompt, the cache, and the mask of its places: [shared beginning][padding][rest]."""
        shared = _shared_prefix(prompts)
        rests = [ids[shared:] for ids in prompts]
        width = max(map(len, rests))
        ids_BS = torch.tensor([[self.pad_id] * (width - len(r)) + r for r in rests], device=self.device)
        mask_BT = torch.tensor([[1] * shared + [0] * (width - len(r)) + [1] * len(r) for r in rests], device=self.device)
        position_BS = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, shared:]
        cache = DynamicCache(config=self.model.config)
        if shared:
            prefix = torch.tensor([prompts[0][:shared]], device=self.device)
            self.model(prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        out = self.model(ids_BS, attention_mask=mask_BT, position_ids=position_BS, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], cache, mask_BT

    def _pick(self, logits_BV: Tensor, draw_B: Tensor | None) -> Tensor:
        """Next token of every row; sampling inverts the distribution function at the row's own uniform number."""
        if draw_B is None:
            return logits_BV.argmax(-1)
        probs_BV = torch.softmax(logits_BV.double() / self.sampling.temperature, -1)
        sorted_BV, order_BV = probs_BV.topk(_candidates(probs_BV.shape[-1], self.sampling), dim=-1)
        cumulative_BV = sorted_BV.cumsum(-1)
        total_B1 = torch.clamp(cumulative_BV[:, -1:], max=self.sampling.top_p)
        index_B1 = torch.searchsorted(cumulative_BV, draw_B[:, None] * total_B1, right=True).clamp(max=order_BV.shape[-1] - 1)
        return order_BV.gather(-1, index_B1)[:, 0]


def _candidates(vocabulary: int, sampling: Sampling) -> int:
    """How many of the likeliest tokens are looked at: at low temperature the rest has no probability that a float could hold."""
    return min(vocabulary, 256) if sampling.temperature <= 0.1 else vocabulary


def _shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with; at least one token of each prompt stays outside."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a turn, from the generation config and the tokenizer."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
