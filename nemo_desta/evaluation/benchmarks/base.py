"""The interface of a benchmark: load -> messages -> extract -> score -> aggregate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nemo_desta.evaluation.model import Conversation

WITH_AUDIO = "with_audio"
SHUFFLED = "shuffled"  # the clip of another item
NO_AUDIO = "no_audio"  # the question alone


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in the benchmark, stable over runs.
        track: what is averaged together; a row of the result table.
        question: the instruction, without the audio locator.
        gold: the right answer.
        choices: every answer that extraction may give, gold included; empty for open answers.
        audios: Lhotse cuts or paths, in the order of the locators.
        cluster: unit of independent sampling (speaker, source file) for the bootstrap.
        meta: plain JSON that goes into the scored rows.
    """

    id: str
    track: str
    question: str
    gold: str
    choices: tuple[str, ...] = ()
    audios: tuple[Any, ...] = ()
    cluster: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """One response, extracted and scored.

    Attributes:
        parsed: the extracted answer; None = no answer could be read, which counts as wrong.
        score: 0..1; for accuracy 0 or 1.
    """

    item: Item
    condition: str
    response: str
    parsed: str | None
    score: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of the row."""
        return {
            "item": self.item.id,
            "track": self.item.track,
            "condition": self.condition,
            "question": self.item.question,
            "gold": self.item.gold,
            "response": self.response,
            "parsed": self.parsed,
            "score": self.score,
            "cluster": self.item.cluster,
            **self.item.meta,
        }


class Benchmark(Protocol):
    """A benchmark; the runner and the report know nothing else of it."""

    name: str
    conditions: tuple[str, ...]

    def load(self) -> list[Item]:
        """All items, in a fixed order."""
        ...

    def messages(self, item: Item, condition: str) -> Conversation:
        """The conversation that the model answers; the same for the same item and condition in every process."""
        ...

    def extract(self, item: Item, response: str) -> str | None:
        """The answer that the response gives; None when it gives none or several."""
        ...

    def score(self, item: Item, parsed: str | None) -> float:
        """0..1."""
        ...

    def aggregate(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """Results as plain JSON."""
        ...
