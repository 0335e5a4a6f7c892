"""Which questions are asked about which clips: the rows of target generation, a pure function of cuts, pool and configuration.

With ``generation.rows = 0`` every training cut gets ``prompts_per_cut`` prompts of the pool. With ``rows > 0`` a *balanced* selection of so many rows
is made, so that 8,000 speech clips do not drown 300 music clips, nor English the other languages:

* ``attribute_prompt_fraction`` of the rows ask for one attribute, the others are open (description, reasoning, role play, ...).
* Rows are dealt one by one to the *domain* that is furthest behind its share; shares are in proportion to the square root of the number of clips.
* Within the domain, to the attribute that is furthest behind; attributes have equal shares unless `attribute_weights` says otherwise.
  For open rows, to prompt kinds in the same way.
* Within the attribute, to its values in turn (female, male, female, ...). Attributes with numbers or free text have no values to balance.
* Within the value, to its groups (speakers, source files) in turn, so that 483 clips of one voice do not stand for a language, and within the group to its
  clips in an order shuffled by the seed; the clip's prompt is drawn by hash. A clip is not asked the same prompt twice,
  and at most `MAX_ROWS_PER_STRATUM` times for the same attribute. What runs out leaves its share to the others.
* A clip whose words do not fit into ``max_new_tokens`` is not asked for them. With focused seeds, prompts that show the words go to English clips only.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from nemo_desta.config import GenerationConfig
from nemo_desta.data.conversation import AUDIO_LOCATOR, Tokenizer, render_text
from nemo_desta.data.supervision import Message
from nemo_desta.generation.checks import check_amounts
from nemo_desta.seed.attributes import TRANSCRIPT, attributes_of
from nemo_desta.seed.describe import describe, describe_for, timestamp
from nemo_desta.seed.prompts import Prompt, PromptPool

logger = logging.getLogger(__name__)

# Free text is judged by overlap, not by one of a few values.
FREE_ATTRIBUTES = frozenset({"transcript", "translation_en", "caption", "sound", "intent", "instruments"})
NUMBER_ATTRIBUTES = frozenset({"duration_seconds", "tempo_bpm", "num_speakers", "snr_db"})
ENGLISH = "English"  # language of the prompts and answers
MAX_ROWS_PER_STRATUM = 4  # of one clip for one attribute


@dataclass(frozen=True)
class TargetRow:
    """One question about one clip.

    Attributes:
        row_id: hash of (cut id, prompt id, k); the same in every plan that holds the row.
        prompt: of the pool.
        messages: the conversation with the audio locator, for generation (with the seed) and training (with the audio) alike.
        text: what the backbone reads when it answers: the rendered chat with the seed description in place of the audio.
        seed: the seed description; of several clips one a line.
        attributes: of the clip, as the seed states them; none where the row is about several.
        others: cut ids of the further clips, in the order of their locators.
        seeds: of several clips, the description of each.
        gold: the right answer to a comparison.
        values: of a comparison, all values of its attribute.
    """

    row_id: str
    cut_id: str
    prompt: Prompt
    messages: list[Message]
    text: str
    seed: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    gold: str | None = None
    values: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """Domain of the clip."""
        return self.attributes.get("domain", "unknown")


def row_id(cut_id: str, prompt_id: str, k: int) -> str:
    """Stable id of the k-th row of a clip and prompt."""
    return hashlib.sha256(f"{cut_id}\x1f{prompt_id}\x1f{k}".encode()).hexdigest()[:16]


def make_messages(prompt: str, system_prompt: str, clips: int = 1) -> list[Message]:
    """The conversation of a row; an empty system prompt leaves the turn out. Several clips are numbered, so that an answer can tell them apart."""
    system: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    heard = AUDIO_LOCATOR if clips == 1 else "\n".join(f"Clip {number}: {AUDIO_LOCATOR}" for number in range(1, clips + 1))
    return [*system, {"role": "user", "content": f"{heard}\n\n{prompt}"}]


def vocabulary(cuts: Iterable[Cut]) -> dict[str, list[str]]:
    """All values of every attribute that has values (not of free text or numbers), sorted."""
    values: dict[str, set[str]] = defaultdict(set)
    for cut in cuts:
        for key, value in attributes_of(cut).items():
            if key not in FREE_ATTRIBUTES | NUMBER_ATTRIBUTES:
                values[key].add(value)
    return {key: sorted(found) for key, found in sorted(values.items())}


def make_plan(
    cuts: CutSet | Sequence[Cut],
    pool: PromptPool,
    config: GenerationConfig,
    tokenizer: Tokenizer,
    chosen: Sequence[tuple[str, str]] | None = None,
) -> list[TargetRow]:
    """The rows to write, in a fixed order.

    Args:
        cuts: training cuts (contract C1).
        config: `focused_seed` decides what the backbone reads (`seed_for`); `attribute_weights` count for `rows > 0` only.
        chosen: (cut id, prompt id) of each row, where a plan of more cuts than these has dealt them already.

    Raises:
        ValueError: no cuts, cuts without domain, two cuts with one id, a fraction outside [0, 1], or nothing to ask about them.
    """
    clips = [_Clip(cut, attributes_of(cut)) for cut in cuts]
    if chosen is not None:
        by_id = {clip.cut.id: clip for clip in clips}
        return _rows(((by_id[cut], pool.by_id[prompt]) for cut, prompt in chosen), config.system_prompt, tokenizer, config.focused_seed)
    _check(clips, config)
    too_long = _Quotations(tokenizer, config.max_new_tokens)
    if config.rows > 0:
        pairs = list(_balanced(clips, pool, config, config.attribute_weights, too_long))
        if len(pairs) < config.rows:
            logger.warning("generation.rows=%d, but clips and prompts give only %d different rows", config.rows, len(pairs))
    else:
        pairs = [(clip, prompt) for clip in clips for prompt in pool.sample(clip.cut, config.prompts_per_cut, config.seed, config.attribute_prompt_fraction)]
    if not pairs:
        raise ValueError(f"none of the pool's {len(pool)} prompts fits any of the {len(clips)} clips: check custom['domain'] and the attributes of the cuts")
    return _rows(pairs, config.system_prompt, tokenizer, config.focused_seed)


def seed_for(cut: Cut, prompt: Prompt, *, focused: bool) -> str:
    """The description that the backbone reads for one prompt.

    Args:
        focused: for an attribute question, nothing but that attribute; for others, all attributes. The spoken words only where the prompt requires them.
            Otherwise the clip's whole ``seed_description``, as in the paper.
    """
    if not focused:
        written = (getattr(cut, "custom", None) or {}).get("seed_description")
        return written or describe(cut)
    if prompt.attribute == TRANSCRIPT:  # behind a list of attributes a small backbone goes on with the list
        return f'{timestamp(0.0, cut.duration)} The speaker says: "{attributes_of(cut)[TRANSCRIPT]}"'
    if prompt.attribute is not None:
        return describe_for(cut, prompt.attribute)
    return describe(cut, transcript=TRANSCRIPT in prompt.requires)


def _rows(chosen: Iterable[tuple["_Clip", Prompt]], system_prompt: str, tokenizer: Tokenizer, focused: bool) -> list[TargetRow]:
    times: Counter[tuple[str, str]] = Counter()
    rows = []
    for clip, prompt in chosen:
        k = times[clip.cut.id, prompt.id]
        times[clip.cut.id, prompt.id] += 1
        messages = make_messages(prompt.text, system_prompt)
        seed = seed_for(clip.cut, prompt, focused=focused)
        text = render_text(messages, tokenizer, [seed])
        rows.append(TargetRow(row_id(clip.cut.id, prompt.id, k), clip.cut.id, prompt, messages, text, seed, clip.attributes))
    return rows


@dataclass(frozen=True)
class _Clip:
    cut: Any  # of Lhotse, which has no common typed base for cuts
    attributes: dict[str, str]


class _Quotations:
    """Whether a question asks to repeat more than max_new_tokens can hold: such an answer would only be cut off."""

    ROOM = 12  # tokens for "The speaker says:" and the quotation marks

    def __init__(self, tokenizer: Tokenizer, max_new_tokens: int) -> None:
        self.tokenizer, self.limit = tokenizer, max_new_tokens - self.ROOM

    def __call__(self, clip: _Clip, attribute: str) -> bool:
        gold = clip.attributes[attribute]
        # No token is shorter than a byte, few are longer than eight: most texts are judged without tokenising them.
        if len(gold.encode()) <= self.limit:
            return False
        return len(gold) > 8 * self.limit or len(self.tokenizer(gold, add_special_tokens=False)["input_ids"]) > self.limit


def _check(clips: Sequence[_Clip], config: GenerationConfig) -> None:
    if not clips:
        raise ValueError("the training set holds no cuts: run examples/prepare_corpus.py first")
    check_amounts(config)
    times = Counter(clip.cut.id for clip in clips)
    if doubled := [name for name, count in times.items() if count > 1]:
        raise ValueError(f"{len(doubled)} cut ids stand twice in the training set, first {doubled[0]!r}: ids must be unique")
    if strange := [clip.cut.id for clip in clips if "domain" not in clip.attributes]:
        raise ValueError(f"{len(strange)} cuts have no custom['domain'], first {strange[0]!r}: set it to speech, sound, music or mixed")


def draw(*parts: object) -> int:
    """A large number that depends on nothing but the parts."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


class _Stratum:
    """Clips of one value of an attribute (or of one open prompt kind), asked in turn."""

    def __init__(self, name: tuple[str, ...], seed: int) -> None:
        self.name, self.seed = name, seed
        self.members: list[tuple[_Clip, list[Prompt]]] = []
        self._rows: Iterator[tuple[_Clip, Prompt]] | None = None

    def add(self, clip: _Clip, prompts: list[Prompt]) -> None:
        self.members.append((clip, prompts))

    def draw(self) -> tuple[_Clip, Prompt] | None:
        """The next row; None when all are used up."""
        if self._rows is None:
            self._rows = self._deal()
        return next(self._rows, None)

    def _deal(self) -> Iterator[tuple[_Clip, Prompt]]:
        members = _groups_in_turn(sorted(self.members, key=lambda m: draw(self.seed, "clip", *self.name, m[0].cut.id)))
        for turn in range(MAX_ROWS_PER_STRATUM):
            for clip, prompts in members:
                if turn < len(prompts):
                    ranked = sorted(prompts, key=lambda p: draw(self.seed, "prompt", clip.cut.id, p.id))
                    yield clip, ranked[turn]


def _groups_in_turn(members: Sequence[tuple[_Clip, list[Prompt]]]) -> list[tuple[_Clip, list[Prompt]]]:
    """One clip of every group (speaker, source file), then the next of every group that has one, and so on."""
    seen: Counter[str] = Counter()
    turns: list[int] = []
    for clip, _ in members:
        group = str((clip.cut.custom or {}).get("group", clip.cut.id))
        turns.append(seen[group])
        seen[group] += 1
    return [members[place] for _, place in sorted((turn, place) for place, turn in enumerate(turns))]


class _Level:
    """A weighted choice among children: each draw goes to the one furthest behind its share; empty ones leave."""

    def __init__(self, children: Mapping[str, "_Level | _Stratum"], weights: Mapping[str, float]) -> None:
        self.children: dict[str, _Level | _Stratum] = {name: children[name] for name in sorted(children) if weights.get(name, 1.0) > 0}
        self.weights, self.taken = weights, dict.fromkeys(self.children, 0)

    def draw(self) -> tuple[_Clip, Prompt] | None:
        while self.children:
            name = min(self.children, key=lambda n: (self.taken[n] + 0.5) / self.weights.get(n, 1.0))
            if (row := self.children[name].draw()) is not None:
                self.taken[name] += 1
                return row
            del self.children[name]
        return None


def _balanced(
    clips: Sequence[_Clip], pool: PromptPool, config: GenerationConfig, weights: Mapping[str, float], too_long: _Quotations
) -> Iterator[tuple[_Clip, Prompt]]:
    """Deal `config.rows` rows over attribute and open questions; either side stands in for the other when it runs out."""
    # domain -> attribute or kind -> value -> clips
    sides: dict[bool, dict[str, dict[str, dict[str, _Stratum]]]] = {True: {}, False: {}}
    by_group: dict[tuple[str, frozenset[str]], dict[tuple[bool, str], list[Prompt]]] = {}
    for clip in clips:
        group = domain, known = clip.attributes["domain"], _askable(clip.attributes, config.focused_seed)
        if group not in by_group:  # clips with the same attributes share their prompts: 5 M clips, a few hundred combinations
            by_group[group] = _by_suit(prompt for prompt in pool if prompt.fits(domain, known))
        for (asks, suit), prompts in by_group[group].items():
            if asks and suit in FREE_ATTRIBUTES and too_long(clip, suit):
                continue
            valued = asks and suit not in FREE_ATTRIBUTES | NUMBER_ATTRIBUTES
            value = clip.attributes[suit] if valued else "*"
            strata = sides[asks].setdefault(domain, {}).setdefault(suit, {})
            strata.setdefault(value, _Stratum((domain, suit, value), config.seed)).add(clip, prompts)
    share = {domain: math.sqrt(count) for domain, count in Counter(clip.attributes["domain"] for clip in clips).items()}
    roots = {asks: _Level({domain: _domain_level(suits, weights if asks else {}) for domain, suits in side.items()}, share) for asks, side in sides.items()}
    fraction = config.attribute_prompt_fraction
    both = _Level({"attribute": roots[True], "open": roots[False]}, {"attribute": fraction, "open": 1 - fraction})
    for _ in range(config.rows):
        if (row := both.draw()) is None:
            return
        yield row


def _askable(attributes: Mapping[str, str], focused: bool) -> frozenset[str]:
    """Attributes that a prompt may require; with focused seeds no words in another language, for a small backbone that reads them answers in it."""
    hidden = {TRANSCRIPT} if focused and attributes.get("language", ENGLISH) != ENGLISH else set()
    return frozenset(attributes) - hidden


def _domain_level(suits: Mapping[str, Mapping[str, _Stratum]], weights: Mapping[str, float]) -> _Level:
    return _Level({suit: _Level(values, {}) for suit, values in suits.items()}, weights)


def _by_suit(prompts: Iterable[Prompt]) -> dict[tuple[bool, str], list[Prompt]]:
    """Prompts by (asks for an attribute, attribute or kind)."""
    suits: dict[tuple[bool, str], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        suits[(True, prompt.attribute) if prompt.attribute else (False, prompt.kind)].append(prompt)
    return dict(suits)
