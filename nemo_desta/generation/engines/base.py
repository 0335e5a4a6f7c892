"""What every engine of target generation does."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nemo_desta.data.conversation import Tokenizer

STOP = "stop"  # the backbone ended its turn
LENGTH = "length"  # cut off by max_new_tokens
FAILED = "failed"  # the engine would not answer this row, e.g. a prompt beyond the server's limit


@dataclass(frozen=True)
class Completion:
    """Answer to one prompt.

    Attributes:
        text: without special tokens, as `whole_letters` gives it.
        finish_reason: `STOP`, `LENGTH`, `FAILED`, or what else a server says ("content_filter").
        num_tokens: generated tokens, the end-of-turn token included.
    """

    text: str
    finish_reason: str
    num_tokens: int


def whole_letters(text: str) -> str:
    """A decoded answer, stripped, without what is left of a letter that the end cut through: some engines give such bytes as U+FFFD, others hold them back."""
    return text.rstrip("\ufffd").strip()


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the paper's are temperature 0.05 and top-p 1."""

    temperature: float = 0.05  # 0 = greedy
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"generation.temperature={self.temperature} is negative: use 0 for greedy decoding or a small positive value (paper: 0.05)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"generation.top_p={self.top_p} is outside (0, 1]: use 1.0 to draw from all tokens (paper)")
        if self.max_new_tokens < 1:
            raise ValueError(f"generation.max_new_tokens={self.max_new_tokens} must be at least 1")


class Engine(Protocol):
    """Answers rendered prompts."""

    name: str
    tokenizer: Tokenizer
    batches_in_flight: int
    """Batches that `generate` may be given at once, from different threads; 1 = one after the other."""

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of every prompt in tokens."""
        ...

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        """Answer `prompts`, in their order; what is drawn for a prompt depends on its key alone (and the seed)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Provenance: what else than the sampling decides the answers (precision, device, threads)."""
        ...

    def counters(self) -> dict[str, int]:
        """What happened on the way (requests, retries, refused rows), for the manifest; empty where nothing can."""
        ...

    def close(self) -> None:
        """Let go of model or connections; what is under way is given up."""
        ...


def row_seed(seed: int, key: str) -> int:
    """Seed of one row: from its id, so that neither restarts nor order nor sharding change what is drawn (and no two shards draw the same)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1
