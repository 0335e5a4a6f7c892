"""The interface of a backbone (contract C3)."""

from typing import Protocol

from torch import Tensor

from nemo_desta.data.packing import TokenPack


class Backbone(Protocol):
    """A frozen causal LLM that reads embeddings.

    Shape legend: B batch, T tokens, H hidden size.
    """

    hidden_size: int

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids of any shape [...] to embeddings [..., H]."""
        ...

    def loss(self, embeds_TH: Tensor, pack: TokenPack) -> tuple[Tensor, int]:
        """(sum of the token losses, number of tokens with a loss) of a pack, logits computed at labelled positions only."""
        ...

    def generate(
        self, embeds_BTH: Tensor, attention_mask_BT: Tensor, *, max_new_tokens: int, do_sample: bool = False, temperature: float = 1.0, top_p: float = 1.0
    ) -> list[list[int]]:
        """Continuations of left-padded prompts, each ending with the end-of-turn token if the model wrote one."""
        ...
