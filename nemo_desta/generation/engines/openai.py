"""Generation by any OpenAI-compatible server: vLLM, SGLang, trtllm-serve, ...

The server gets the prompt of the one renderer through its *completions* endpoint, as token ids (or text), never as chat messages: what the backbone reads is
the same as in process. Every row is a request of its own with a seed of its own, derived from the row id, so that neither restarts nor order nor the rows that
the server happens to batch together decide what is drawn for it.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nemo_desta.config import OpenAIConfig, PromptAs
from nemo_desta.generation.engines.base import FAILED, STOP, Completion, Sampling, row_seed, whole_letters
from nemo_desta.generation.engines.endpoint import Endpoint, EndpointError, RefusedError
from nemo_desta.generation.engines.tokens import encode, load_chat_tokenizer

logger = logging.getLogger(__name__)

REFUSALS_FREE, REFUSALS_FRACTION = 10, 0.05  # more refused rows than this is a wrong setting, not a few long prompts
_SEED_BITS = 0x7FFFFFFF  # some servers take 32 bits; rows that share a seed have other prompts


class OpenAIEngine:
    """Requests to one server (or a load balancer before several).

    Args:
        model: directory or Hugging Face id of the backbone that the server runs; only its tokenizer is read.
        sampling: temperature, top-p, length, seed.
        config: address, concurrency, retries.

    Raises:
        ValueError: a setting out of range, no chat template, or the server does not have the model.
        EndpointError: no server answers.
    """

    name = "openai"

    def __init__(self, model: str | Path, sampling: Sampling, config: OpenAIConfig) -> None:
        self.sampling, self.config = sampling, config
        self.endpoint = Endpoint(config)
        self.tokenizer = load_chat_tokenizer(model)
        # Two batches at least: the next one fills the places that the last long rows of a batch leave empty.
        self.batches_in_flight = 2
        self._answered = 0
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="requests")
        try:
            self.served_model = self._find_model()
        except RefusedError as error:
            self.close()
            raise EndpointError(f"{config.base_url}/models: {error}") from error
        except BaseException:
            self.close()
            raise

    def describe(self) -> dict[str, Any]:
        """Which model answers, and in what form it is asked."""
        return {"engine": self.name, "served_model": self.served_model, "prompt_as": str(self.config.prompt_as)}

    def counters(self) -> dict[str, int]:
        """Requests, retries, refused rows."""
        return dict(self.endpoint.counters)

    def close(self) -> None:
        """Give up requests under way."""
        self.endpoint.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of every prompt in tokens."""
        return [len(ids) for ids in encode(self.tokenizer, prompts)]

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        """Answer a batch; all batches together have at most `concurrency` requests in flight.

        Raises:
            EndpointError: a row had no usable reply after all attempts, or the server refuses too many rows.
        """
        assert len(prompts) == len(keys)
        ids = encode(self.tokenizer, prompts) if self.config.prompt_as == PromptAs.token_ids else [None] * len(prompts)
        futures = [self._pool.submit(self._answer, i if i is not None else text, key) for text, i, key in zip(prompts, ids, keys, strict=True)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _answer(self, prompt: list[int] | str, key: str) -> Completion:
        s = self.sampling
        payload = {
            "model": self.served_model,
            "prompt": prompt,
            "max_tokens": s.max_new_tokens,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "seed": row_seed(s.seed, key) & _SEED_BITS,
            **self.config.extra,
        }
        try:
            answer = self.endpoint.call("POST", "completions", payload, self._completion)
        except RefusedError as error:
            logger.warning("row %s is refused: %s", key, error)
            refused = self.endpoint.counters["refused"]
            if refused > REFUSALS_FREE + REFUSALS_FRACTION * self._answered:
                raise EndpointError(f"{self.config.base_url} refused {refused} rows and answered {self._answered}, last: {error}") from error
            return Completion("", FAILED, 0)
        self._answered += 1
        return answer

    def _completion(self, reply: Any) -> Completion:
        """The first choice of a reply; ValueError where it is none, or empty without an end (a server that broke off)."""
        choice = reply["choices"][0]
        text, reason = choice["text"], choice.get("finish_reason")
        if not isinstance(text, str):
            raise ValueError(f"text is {text!r}")
        if reason is None and not text:
            raise ValueError("empty and without finish_reason")
        tokens = (reply.get("usage") or {}).get("completion_tokens")
        count = tokens if isinstance(tokens, int) else len(encode(self.tokenizer, [text])[0]) + (reason == STOP)
        return Completion(whole_letters(text), str(reason), count)

    def _find_model(self) -> str:
        names = self.endpoint.call("GET", "models", None, lambda reply: [str(entry["id"]) for entry in reply["data"]])
        if self.config.model is None and len(names) == 1:
            return names[0]
        if self.config.model in names:
            return self.config.model
        raise ValueError(f"generation.openai.model={self.config.model!r}: {self.config.base_url} serves {', '.join(names) or 'nothing'}; name one of them")
