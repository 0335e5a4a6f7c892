"""Held-out questions: one short question about one attribute of a clip that was never trained on (single-hop, in the manner of SAKURA).

The clips are those of the held-out split: other speakers, characters, levels and source files than the training clips. Every question is asked under three
conditions on the same items:

* ``with_audio``: the clip and the question. The transcript is not shown unless the settings say so: the answer must come from the sound.
* ``shuffled``: the clip of another item of the same attribute, by a seeded derangement of the items. The donor of an item is a random other item whatever its
  value, so a model that hears perfectly is right as often as two different items share a value (`stats.swap_agreement`, 1/K for K balanced values), and
  a model that reads the answer off the question or the prior keeps what it had. That makes the row a measured baseline; donors of another value only would
  push a hearing model below chance.
* ``no_audio``: the question alone, with the same system prompt: the frozen language model's guess.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from lhotse.cut import MonoCut

from nemo_desta.data.conversation import NO_TRANSCRIPT
from nemo_desta.data.dataset import load_samples
from nemo_desta.evaluation import stats
from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO, Item, Scored
from nemo_desta.evaluation.model import Conversation
from nemo_desta.evaluation.scoring import summarise_tracks
from nemo_desta.generation.plan import make_messages
from nemo_desta.seed.prompts import Prompt, load_pool

logger = logging.getLogger(__name__)

QUESTIONS_PATH = Path(__file__).with_name("heldout_questions.yaml")
Attributes = Callable[[MonoCut], Mapping[str, str]]
Match = Callable[[str, str, Sequence[str]], str | None]


@dataclass(frozen=True)
class HeldOutSettings:
    """What is asked."""

    max_items_per_attribute: int = 120
    min_clips_per_value: int = 3  # held-out clips; a value with fewer is left out and counted
    max_majority_ratio: float = 1.5  # the most common of K values is at most this / K of an attribute's items, so that its majority baseline stays low
    wording: str = "own"  # own: heldout_questions.yaml; pool: the attribute prompts of the training pool, drawn by item, for robustness to wording
    show_transcript: bool = False  # show the source transcript in the audio block
    system_prompt: str = "Focus on the audio clips and instructions."  # that of the training messages; "" = no system turn, as there
    bootstrap: int = 1000  # resamples
    seed: int = 0


def load_questions(path: Path = QUESTIONS_PATH) -> dict[str, str]:
    """Attribute -> question."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def header_problem(cut: MonoCut) -> str | None:
    """Why a clip cannot be asked about (missing or unreadable file, no samples); None when its header reads well. Cheap: for all held-out clips."""
    for source in cut.recording.sources if cut.recording else []:
        if source.type != "file":
            continue
        try:
            if soundfile.info(source.source).frames == 0:
                return "no samples"
        except (OSError, RuntimeError) as error:  # soundfile's own error is a RuntimeError
            return str(error)
    return None if cut.duration > 0 else "no duration"


def audio_problem(cut: MonoCut) -> str | None:
    """Why a clip cannot be heard; None when the whole of it decodes, by the reader that the model uses. For the clips that are asked about."""
    try:
        load_samples(cut)
    except ValueError as error:
        return str(error)
    return None


@cache
def pool_prompts() -> dict[str, list[Prompt]]:
    """Attribute -> the attribute prompts of the training pool."""
    prompts: dict[str, list[Prompt]] = {}
    for prompt in load_pool():
        if prompt.attribute:
            prompts.setdefault(prompt.attribute, []).append(prompt)
    return prompts


@cache
def askable(attribute: str, domain: str | None, known: frozenset[str]) -> bool:
    """Whether the training pool asks clips of this domain for the attribute; true for an attribute that it asks no clip for.

    A laugh may have a gender in its manifest, but if training asks only speech for it, the answer about a laugh was never taught.
    """
    prompts = pool_prompts().get(attribute)
    return prompts is None or any(prompt.fits(domain, known) for prompt in prompts)


def value_counts(cuts: Sequence[MonoCut], attributes_of: Attributes) -> dict[str, Counter[str]]:
    """How often each value of each attribute occurs."""
    counts: dict[str, Counter[str]] = {}
    for cut in cuts:
        for name, value in attributes_of(cut).items():
            counts.setdefault(name, Counter())[str(value)] += 1
    return counts


class HeldOut:
    """The benchmark of held-out questions."""

    name = "heldout"
    conditions: tuple[str, ...] = (WITH_AUDIO, SHUFFLED, NO_AUDIO)

    def __init__(
        self,
        test_cuts: Sequence[MonoCut],
        train_cuts: Sequence[MonoCut],
        settings: HeldOutSettings,
        *,
        questions: Mapping[str, str] | None = None,
        attributes_of: Attributes | None = None,
        match: Match | None = None,
    ) -> None:
        """Choose the items.

        Args:
            test_cuts: the held-out clips (contract C1).
            train_cuts: the clips of training; values that they lack are not asked about.
            questions: attribute -> question; by default the shipped ones.
            attributes_of: flat attributes of a cut; by default those of the seed descriptions.
            match: reads a value from a response; by default the rule that also filters the training targets.

        Raises:
            ValueError: no attribute has two values with enough clips, or an unknown `settings.wording`.
        """
        if settings.wording not in ("own", "pool"):
            raise ValueError(f"wording={settings.wording!r} is unknown: write own or pool")
        self.settings = settings
        self.questions = dict(questions if questions is not None else load_questions())
        self._all_attributes_of = attributes_of or _default_attributes()
        self._match = match or _default_match()
        self._trained = value_counts(train_cuts, self._attributes_of)
        self._problems: dict[str, str] = {}  # cut id -> why it is left out
        self._heard: set[str] = set()  # cut ids that were decoded whole
        self._cuts = self._without(sorted(test_cuts, key=lambda c: c.id), header_problem)
        self._items = self._choose()
        if not self._items:
            raise ValueError(
                f"{len(self._cuts)} held-out clips give no question: an attribute needs two values with {settings.min_clips_per_value} held-out clips each "
                f"that training has too (left out: {self.left_out['attributes']}); hold out more clips or build a larger corpus"
            )

    @cached_property
    def _by_id(self) -> dict[str, MonoCut]:
        return {cut.id: cut for cut in self._cuts}  # also those that are found out later to be broken

    def load(self) -> list[Item]:
        """The items, attribute by attribute."""
        return list(self._items)

    def cut(self, cut_id: str) -> MonoCut:
        """A held-out clip by id."""
        return self._by_id[cut_id]

    def messages(self, item: Item, condition: str) -> Conversation:
        """System prompt and question, with the clip, another item's clip, or none."""
        *system, user = make_messages(item.question, self.settings.system_prompt)  # as training writes them
        if condition == NO_AUDIO:
            return [*system, {**user, "content": item.question}]
        cut = self.cut(item.meta["cut" if condition == WITH_AUDIO else "shuffled_cut"])
        transcript = cut.supervisions[0].text if self.settings.show_transcript and cut.supervisions else None
        return [*system, {**user, "audios": [{"audio": cut, "text": transcript or NO_TRANSCRIPT}]}]

    def extract(self, item: Item, response: str) -> str | None:
        """The one value of the attribute that the response names."""
        return self._match(response, item.track, item.choices)

    def score(self, item: Item, parsed: str | None) -> float:
        """1 for the gold value, else 0; an answer that cannot be read is wrong."""
        return float(parsed == item.gold)

    def aggregate(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """Results by attribute, and what was left out."""
        tracks = summarise_tracks(scored, resamples=self.settings.bootstrap, seed=self.settings.seed)
        for name, summary in tracks.items():
            summary["shuffled_follows_clip"] = _follows([s for s in scored if s.item.track == name and s.condition == SHUFFLED])
            summary["question"] = self.questions[name] if self.settings.wording == "own" else "(drawn from the training pool)"
        return {"attributes": tracks, "left_out": self.left_out, "settings": asdict(self.settings)}

    def _attributes_of(self, cut: MonoCut) -> dict[str, str]:
        """The attributes of a clip that the pool asks clips like it for."""
        attributes = self._all_attributes_of(cut)
        known = frozenset(attributes)
        return {name: str(value) for name, value in attributes.items() if askable(name, attributes.get("domain"), known)}

    def _choose(self) -> list[Item]:
        """The items. The chosen clips are decoded whole; where one cannot be, it is left out and the choice is made again without it."""
        while True:
            self.left_out: dict[str, Any] = {
                "unusable_clips": dict(self._problems),
                "clips_never_asked_in_training": self._never_asked(),
                "values_not_in_training": {},
                "values_with_few_clips": {},
                "attributes": {},
            }
            items = [item for attribute in self.questions for item in self._items_of(attribute)]
            fresh = {item.meta["cut"]: self.cut(item.meta["cut"]) for item in items if item.meta["cut"] not in self._heard}
            good = self._without(list(fresh.values()), audio_problem)
            self._heard |= {cut.id for cut in good}
            if len(good) == len(fresh):
                break
            self._cuts = [cut for cut in self._cuts if cut.id not in self._problems]
        if self._problems:
            logger.warning("%d held-out clips cannot be read and are left out: %s", len(self._problems), list(self._problems.items())[:3])
        return items

    def _without(self, cuts: Sequence[MonoCut], problem_of: Callable[[MonoCut], str | None]) -> list[MonoCut]:
        """The cuts without a problem; the others are noted."""
        found = {cut.id: problem for cut in cuts if (problem := problem_of(cut)) is not None}
        self._problems |= found
        return [cut for cut in cuts if cut.id not in found]

    def _never_asked(self) -> dict[str, int]:
        """Attribute with a question -> clips that have it but are of a domain that training never asks for it."""
        counts: Counter[str] = Counter()
        for cut in self._cuts:
            counts.update(self._all_attributes_of(cut).keys() - self._attributes_of(cut).keys())
        return {name: counts[name] for name in self.questions if counts[name]}

    def _items_of(self, attribute: str) -> list[Item]:
        """The items of one attribute, in a fixed order; none where fewer than two values remain."""
        by_value: dict[str, list[MonoCut]] = {}
        for cut in self._cuts:
            value = self._attributes_of(cut).get(attribute)
            if value is not None:
                by_value.setdefault(str(value), []).append(cut)
        usable = self._values(attribute, by_value)
        if len(usable) < 2:
            if by_value:
                self.left_out["attributes"][attribute] = f"{len(usable)} of {len(by_value)} values usable, at least 2 needed"
            return []
        quota = balanced_quota({v: len(c) for v, c in usable.items()}, self.settings.max_items_per_attribute, self.settings.max_majority_ratio)
        chosen = [(value, cut) for value, cuts in sorted(usable.items()) for cut in self._draw(attribute, value, cuts, quota[value])]
        swap = stats.derangement(len(chosen), self._seed("swap", attribute))
        choices = tuple(sorted(self._trained[attribute]))
        return [self._item(attribute, value, cut, chosen[swap[i]], choices) for i, (value, cut) in enumerate(chosen)]

    def _values(self, attribute: str, by_value: Mapping[str, list[MonoCut]]) -> dict[str, list[MonoCut]]:
        """The values that are asked about; the others are counted."""
        usable = {}
        for value, cuts in by_value.items():
            if value not in self._trained.get(attribute, Counter()):
                self.left_out["values_not_in_training"].setdefault(attribute, {})[value] = len(cuts)
            elif len(cuts) < self.settings.min_clips_per_value:
                self.left_out["values_with_few_clips"].setdefault(attribute, {})[value] = len(cuts)
            else:
                usable[value] = cuts
        return usable

    def _draw(self, attribute: str, value: str, cuts: Sequence[MonoCut], count: int) -> list[MonoCut]:
        """`count` clips of a value, taken in turn from its groups (speakers, source files), so that no voice stands for the value alone."""
        rng = np.random.default_rng(self._seed("draw", attribute, value))
        groups: dict[str, list[MonoCut]] = {}
        for i in rng.permutation(len(cuts)):
            groups.setdefault(_cluster(cuts[i]), []).append(cuts[i])
        ranked = [(turn, order, cut) for order, members in enumerate(groups.values()) for turn, cut in enumerate(members)]
        ranked.sort(key=lambda r: r[:2])
        return [cut for _, _, cut in ranked[:count]]

    def _item(self, attribute: str, value: str, cut: MonoCut, donor: tuple[str, MonoCut], choices: tuple[str, ...]) -> Item:
        meta = {"cut": cut.id, "dataset": (cut.custom or {}).get("dataset", ""), "shuffled_cut": donor[1].id, "shuffled_value": donor[0]}
        question = self._question(attribute, cut.id)
        return Item(f"{attribute}/{cut.id}", attribute, question, value, choices, (cut,), _cluster(cut), meta)

    def _question(self, attribute: str, cut_id: str) -> str:
        prompts = pool_prompts().get(attribute) if self.settings.wording == "pool" else None
        return prompts[self._seed("wording", attribute, cut_id) % len(prompts)].text if prompts else self.questions[attribute]

    def _seed(self, *parts: str) -> int:
        return int.from_bytes(hashlib.sha256("\0".join([str(self.settings.seed), *parts]).encode()).digest()[:8], "big")


def balanced_quota(available: Mapping[str, int], max_items: int, max_majority_ratio: float) -> dict[str, int]:
    """How many clips each of K values gives: as even as the clips allow, `max_items` in all, no value above `max_majority_ratio` / K of the whole.

    Args:
        available: clips of each value.

    Returns:
        Value -> clips. At least one each, so that `max_items` below K gives K.
    """
    values = sorted(available)

    def capped(cap: int) -> dict[str, int]:
        return {v: min(available[v], cap) for v in values}

    cap = max(available.values())
    while cap > 1 and cap > max_majority_ratio * sum(capped(cap).values()) / len(values):
        cap -= 1
    while cap > 1 and sum(capped(cap - 1).values()) >= max_items:
        cap -= 1
    quota = capped(cap)
    surplus = sum(quota.values()) - max_items
    for value in [v for v in reversed(values) if quota[v] == cap and cap > 1][: max(0, surplus)]:
        quota[value] -= 1
    return quota


def _cluster(cut: MonoCut) -> str:
    """The unit of splitting: the clips of one are not independent."""
    custom = cut.custom or {}
    return str(custom.get("group") or custom.get("parent_id") or cut.id)


def _follows(shuffled: Sequence[Scored]) -> float | None:
    """Share of the shuffled answers that name the value of the clip that was really played: near the accuracy of a model that listens."""
    return sum(s.parsed == s.item.meta["shuffled_value"] for s in shuffled) / len(shuffled) if shuffled else None


def _default_attributes() -> Attributes:
    from nemo_desta.seed.attributes import attributes_of

    return attributes_of


def _default_match() -> Match:
    from nemo_desta.seed.matching import match_value

    return match_value
