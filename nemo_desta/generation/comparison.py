"""Rows about several clips in one conversation: which, how many, in what order; and what makes an answer to them right.

The prompts are those of kind ``comparison``. The clips of a row are drawn so that its question has one answer: of a *which* exactly one clip has the value,
numbers to compare differ by a fifth at least. Every clip has an audio block of its own in the one rendering, and a description of its own in generation.
Like the rest of the plan, the rows are a pure function of cuts, pool and configuration.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from numpy.typing import NDArray

from nemo_desta.config import GenerationConfig
from nemo_desta.data.conversation import Tokenizer, render_text
from nemo_desta.generation.checks import check_share
from nemo_desta.generation.plan import TargetRow, draw, make_messages, make_plan, row_id, seed_for
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.matching import mentions, normalise
from nemo_desta.seed.prompts import COMPARISON, VALUE, Prompt, PromptPool

ORDINALS = ("first", "second", "third")
NUMBERS = ("zero", "one", "two", "three")
MARGIN = 1.2  # ratio from which two numbers count as different
BY_VALUE = ("which", "count", "same", "list")  # questions whose clips are drawn by their values; the others compare numbers, or anything
ATTEMPTS = 20  # draws of clips for one question, before it is left out

_ORDINAL = re.compile(r"\b(?:(first|1st)|(second|2nd)|(third|3rd)|clips? (?:number )?(?:(1|one)|(2|two)|(3|three)))\b")
_SPOKEN_SOUND = "a sound effect"  # how a question names the domain "sound"


@dataclass(frozen=True)
class ClipTable:
    """All clips of a set as the drawing sees them: a name each, and which of a few sets of attributes it has. Millions fit into memory.

    Attributes:
        names: cut ids.
        kinds: of every clip, the place of its attributes in `attributes`.
        attributes: what comparisons ask about, with their values; what they only require, without.
    """

    names: list[str]
    kinds: NDArray[np.int32]
    attributes: list[dict[str, str]]

    @classmethod
    def of(cls, clips: Iterable[tuple[str, Mapping[str, str]]], pool: PromptPool) -> "ClipTable":
        """From (cut id, attributes as `attributes_of` gives them)."""
        asked = {prompt.attribute for prompt in pool if prompt.kind == COMPARISON} | {"domain"}
        needed = asked | {key for prompt in pool if prompt.kind == COMPARISON for key in prompt.requires}
        names: list[str] = []
        kinds: list[int] = []
        places: dict[tuple[tuple[str, str], ...], int] = {}
        for name, attributes in clips:
            seen = tuple((key, value if key in asked else "") for key, value in attributes.items() if key in needed)
            names.append(name)
            kinds.append(places.setdefault(seen, len(places)))
        return cls(names, np.array(kinds, dtype=np.int32), [dict(seen) for seen in places])

    @classmethod
    def joined(cls, tables: Sequence["ClipTable"]) -> "ClipTable":
        """Several tables as one, in their order."""
        places: dict[tuple[tuple[str, str], ...], int] = {}
        kinds = []
        for table in tables:
            renamed = [places.setdefault(tuple(a.items()), len(places)) for a in table.attributes]
            kinds.append(np.array(renamed, dtype=np.int32)[table.kinds])
        return cls([name for table in tables for name in table.names], np.concatenate(kinds), [dict(seen) for seen in places])


@dataclass(frozen=True)
class Choice:
    """A question about several clips, drawn but not yet written out.

    Attributes:
        prompt_id: of the pool.
        names: cut ids, in the order of their locators.
        value: what the question names, where it names a value.
        values: all values of its attribute.
        place: of the first clip in the table.
    """

    prompt_id: str
    names: tuple[str, ...]
    value: str | None
    values: tuple[str, ...]
    place: int


def whole_plan(
    cuts: CutSet | Sequence[Cut],
    pool: PromptPool,
    config: GenerationConfig,
    tokenizer: Tokenizer,
    chosen: Sequence[tuple[str, str]] | None = None,
    compared: "Compared | None" = None,
) -> list[TargetRow]:
    """All rows of a run: about one clip (`make_plan`), then about several.

    Args:
        chosen: see `make_plan`.
        compared: the rows about several clips, where a plan of more cuts than these has drawn them already.

    Raises:
        ValueError: see `make_plan`; or ``multi_audio_fraction`` is outside [0, 1], or nothing can be compared.
    """
    single = make_plan(cuts, pool, config, tokenizer, chosen)
    if compared is not None:
        return [*single, *choice_rows(compared.choices, [*cuts, *compared.further], pool, config, tokenizer)]
    count = comparisons_for(config, len(single))
    return [*single, *comparison_rows(cuts, pool, config, tokenizer, count)] if config.multi_audio_fraction else single


@dataclass(frozen=True)
class Compared:
    """Rows about several clips that belong to some cuts, and the cuts besides those that they are about."""

    choices: Sequence[Choice]
    further: Sequence[Any]  # of Lhotse, which has no common typed base for cuts


def comparisons_for(config: GenerationConfig, single: int) -> int:
    """How many rows about several clips stand beside `single` rows about one.

    Raises:
        ValueError: ``multi_audio_fraction`` is outside [0, 1].
    """
    check_share("multi_audio_fraction", config.multi_audio_fraction)
    return round(config.multi_audio_fraction * single)


def comparison_rows(cuts: Iterable[Cut], pool: PromptPool, config: GenerationConfig, tokenizer: Tokenizer, count: int) -> list[TargetRow]:
    """`count` rows about several clips; fewer where clips and prompts give no more different ones.

    Raises:
        ValueError: see `choose`.
    """
    cuts = list(cuts)
    table = ClipTable.of(((cut.id, attributes_of(cut)) for cut in cuts), pool)
    return choice_rows(choose(table, pool, config, count), cuts, pool, config, tokenizer)


def choice_rows(choices: Sequence[Choice], cuts: Iterable[Cut], pool: PromptPool, config: GenerationConfig, tokenizer: Tokenizer) -> list[TargetRow]:
    """Write the choices out. `cuts` are theirs, and may be more."""
    wanted = {name for choice in choices for name in choice.names}
    clips = {cut.id: cut for cut in cuts if cut.id in wanted}
    return [_row(choice, [clips[name] for name in choice.names], pool.by_id[choice.prompt_id], config, tokenizer) for choice in choices]


def choose(table: ClipTable, pool: PromptPool, config: GenerationConfig, count: int) -> list[Choice]:
    """Draw `count` different questions about several clips, a function of the set of clips and not of their order; fewer where there are no more.

    Questions of the same group (attribute, what is asked, number of clips) take turns with those of the other groups.

    Raises:
        ValueError: the pool has no such prompts, or no clips can be compared by them.
    """
    groups: dict[tuple[str, ...], list[Prompt]] = defaultdict(list)
    for prompt in pool:
        if prompt.kind == COMPARISON:
            groups[str(prompt.clips), prompt.domain, prompt.ask or "", prompt.attribute or ""].append(prompt)
    drawn = np.fromiter((draw(config.seed, "several", name) for name in table.names), dtype=np.uint64, count=len(table.names))
    order = np.argsort(drawn, kind="stable").astype(np.int32)
    decks = [deck for prompts in groups.values() if (deck := _Deck(prompts, table, order, config.seed)).usable]
    if not decks and count:
        raise ValueError(f"generation.multi_audio_fraction={config.multi_audio_fraction}: no prompt of kind {COMPARISON!r} fits any clips of the training set")
    chosen: dict[tuple[str, tuple[str, ...], str | None], Choice] = {}
    misses = 0
    while decks and len(chosen) < count and misses < ATTEMPTS * len(decks):
        for deck in decks:
            found = deck.next()
            if found is None or (key := (found.prompt_id, found.names, found.value)) in chosen:
                misses += 1
            elif len(chosen) < count:
                chosen[key], misses = found, 0
    return list(chosen.values())


class _Deck:
    """The questions of one group, and the clips that they may be about."""

    def __init__(self, prompts: Sequence[Prompt], table: ClipTable, order: NDArray[np.int32], seed: int) -> None:
        self.prompts, self.table, self.seed, self.turn = prompts, table, seed, 0
        first = prompts[0]
        self.asked = first.attribute or ""
        fits = np.array([first.fits(a.get("domain"), a, clips=first.clips) for a in table.attributes], dtype=bool)
        members = order[fits[table.kinds[order]]] if len(fits) else order
        present = np.unique(table.kinds[members])
        self.values = tuple(sorted({table.attributes[kind].get(self.asked, "") for kind in present}))
        codes = np.array([self._code(attributes) for attributes in table.attributes], dtype=np.int32)[table.kinds[members]]
        self.by_value = first.ask in BY_VALUE
        self.clips = members[np.argsort(codes, kind="stable")] if self.by_value else members
        self.starts = np.searchsorted(np.sort(codes), np.arange(len(self.values) + 1)).tolist()  # where each value begins, if by value
        different = first.ask in ("which", "same", "most", "least", "sort")
        self.usable = len(self.clips) >= first.clips and (len(self.values) > 1 or not different)

    def _code(self, attributes: Mapping[str, str]) -> int:
        value = attributes.get(self.asked, "")
        return self.values.index(value) if value in self.values else -1

    def next(self) -> Choice | None:
        """A prompt, its clips, and the value that it names; None where this draw of clips has no clear answer."""
        self.turn += 1
        prompt = self.prompts[self.turn % len(self.prompts)]
        key = (self.seed, "compare", prompt.id, self.turn)
        place = self.turn % len(self.values)
        chosen = self._by_values(prompt, place, key) if self.by_value else self._any(len(self.clips), prompt.clips, key)
        clips = [int(self.clips[index]) for index in chosen]
        if len(clips) < prompt.clips:
            return None
        if self.by_value:
            clips.sort(key=lambda clip: draw(*key, "place", self.table.names[clip]))
        elif prompt.ask != "open" and not _apart([_number(self._value(clip)) for clip in clips]):
            return None
        value = self.values[place] if self.by_value and VALUE in prompt.text else None
        return Choice(prompt.id, tuple(self.table.names[clip] for clip in clips), value, self.values, clips[0])

    def _value(self, clip: int) -> str:
        return self.table.attributes[self.table.kinds[clip]].get(self.asked, "")

    def _by_values(self, prompt: Prompt, place: int, key: tuple[object, ...]) -> list[int]:
        """Clips with and without a value: one with it for *which*, any number for the others."""
        start, end = self.starts[place], self.starts[place + 1]
        own, others = end - start, len(self.clips) - (end - start)
        wanted = 1 if prompt.ask == "which" else draw(*key, "matches") % (prompt.clips + 1)
        wanted = min(wanted, own)
        if prompt.clips - wanted > others:
            return []
        without = self._any(others, prompt.clips - wanted, (*key, "others"))
        return [*(start + i for i in self._any(own, wanted, (*key, "own"))), *(i if i < start else i + own for i in without)]

    @staticmethod
    def _any(size: int, count: int, key: tuple[object, ...]) -> list[int]:
        """Different places below `size`, by a hash: any of millions without looking at all of them."""
        found: dict[int, None] = {}
        step = 0
        while len(found) < count and step < ATTEMPTS * count:
            found.setdefault(draw(*key, step) % size)
            step += 1
        return list(found)


def _apart(numbers: Sequence[float]) -> bool:
    """Whether all numbers are clearly different."""
    ordered = sorted(numbers)
    return all(b >= a * MARGIN and b >= a + 1 for a, b in pairwise(ordered))


def _number(text: str) -> float:
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    assert found is not None, text
    return float(found[0])


def _row(choice: Choice, cuts: Sequence[Any], prompt: Prompt, config: GenerationConfig, tokenizer: Tokenizer) -> TargetRow:
    """One row about these clips."""
    value = choice.value
    spoken = _SPOKEN_SOUND if (prompt.attribute, value) == ("domain", "sound") else value
    asked = replace(prompt, text=prompt.text.replace(VALUE, spoken or ""))
    messages = make_messages(asked.text, config.system_prompt, len(cuts))
    seeds = [seed_for(cut, asked, focused=config.focused_seed) for cut in cuts]
    attributes = [attributes_of(cut) for cut in cuts]
    return TargetRow(
        row_id=row_id("\x1e".join(choice.names), f"{prompt.id}\x1e{value or ''}", 0),
        cut_id=choice.names[0],
        prompt=asked,
        messages=messages,
        text=render_text(messages, tokenizer, seeds),
        seed="\n".join(seeds),
        seeds=tuple(seeds),
        attributes={"domain": _shared_domain(attributes)},
        others=choice.names[1:],
        gold=_gold(prompt, [known.get(prompt.attribute or "", "") for known in attributes], value),
        values=choice.values,
    )


def _shared_domain(clips: Sequence[Mapping[str, str]]) -> str:
    domains = {known.get("domain", "unknown") for known in clips}
    return domains.pop() if len(domains) == 1 else "mixed"


def _gold(prompt: Prompt, values: Sequence[str], value: str | None) -> str | None:
    """The right answer: an ordinal, yes or no, a number, values or ordinals in order; None for an open prompt."""
    if prompt.ask == "open":
        return None
    if prompt.ask == "same":
        return "yes" if len(set(values)) == 1 else "no"
    if prompt.ask == "count":
        return str(values.count(value or ""))
    if prompt.ask == "list":
        return ", ".join(values)
    if prompt.ask == "which":
        return ORDINALS[values.index(value or "")]
    places = sorted(range(len(values)), key=lambda place: _number(values[place]))
    return {"least": ORDINALS[places[0]], "most": ORDINALS[places[-1]]}.get(prompt.ask or "", ", ".join(ORDINALS[place] for place in places))


# --- what is right -----------------------------------------------------------------------------------------------------------------------------------


def answers_comparison(row: TargetRow, text: str) -> bool:
    """Whether an answer gives the gold of a comparison, and nothing else. What is not clear is wrong."""
    ask, gold = row.prompt.ask, row.gold
    if gold is None:
        return True
    if ask in ("which", "most", "least"):
        return set(ordinals(text)) == {gold}
    if ask == "sort":
        return ordinals(text) == gold.split(", ")
    if ask == "same":
        return says_same(text) == gold
    if ask == "count":
        return says_number(text) == int(gold)
    assert row.prompt.attribute is not None
    named = [m.value for m in mentions(text, row.prompt.attribute, row.values) if not m.negated]
    return named == gold.split(", ") and ordinals(text) in ([], list(ORDINALS[: row.prompt.clips]))


def ordinals(text: str) -> list[str]:
    """Clips that a text names, each once, in order: ``["second", "first"]``; "both" and "neither" name none."""
    if re.search(r"\b(?:both|neither|none)\b", normalise(text)):
        return []
    found = [next(place for place, name in enumerate(match.groups()) if name) % 3 for match in _ORDINAL.finditer(normalise(text))]
    return [ORDINALS[place] for place in dict.fromkeys(found)]


def says_same(text: str) -> str | None:
    """yes or no, by the word itself or by "the same" and "different"; None where a text says neither or both."""
    plain = normalise(text)
    said = set(re.findall(r"\b(yes|no)\b", plain))
    if re.search(r"\b(?:not (?:the |of the )?same|different|differ|differs)\b", plain):
        said.add("no")
    elif re.search(r"\bsame\b", plain):
        said.add("yes")
    return said.pop() if len(said) == 1 else None


def says_number(text: str) -> int | None:
    """The one count that a text gives, as digits or as a word; "of (the) three" is no count. None where there is none, or several."""
    plain = re.sub(r"\b(?:out )?of (?:the |these |all )?(?:three|3)\b", "", normalise(text))
    words = {name: number for number, name in enumerate(NUMBERS)} | {"none": 0}
    found = {words[word] if word in words else int(word) for word in re.findall(r"\b(?:\d+|zero|none|one|two|three)\b", plain)}
    return found.pop() if len(found) == 1 else None
