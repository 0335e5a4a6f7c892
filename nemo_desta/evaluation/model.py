"""What the evaluation needs of a model: one method."""

from collections.abc import Sequence
from typing import Any, Protocol

Conversation = list[dict[str, Any]]
"""``[{"role", "content", "audios": [{"audio": path or Lhotse cut, "text": transcript, " " for none shown, None for transcribe}]}]``."""


class Generation(Protocol):
    """One response."""

    @property
    def text(self) -> str: ...


class AudioModel(Protocol):
    """Anything that answers conversations with audio; `nemo_desta.models.DestaModel` is one, a client of a server can be another."""

    def generate(
        self,
        messages: list[Conversation],
        *,
        max_new_tokens: int,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        transcribe: bool = True,
    ) -> Sequence[Generation]:
        """Answer a batch of conversations, in order. Conversations without audio are answered by the language model alone."""
        ...
