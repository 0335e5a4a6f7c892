"""Rows about several clips in one conversation: which, how many, in what order; and what makes an answer to them right.

The prompts are those of kind ``comparison``. The clips of a row are drawn so that its question has one answer: of a *which* exactly one clip has the value,
numbers to compare differ by a fifth at least. Every clip has an audio block of its own in the one rendering, and a description of its own in generation.
Like the rest of the plan, the rows are a pure function of cuts, pool and configuration.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from nemo_desta.config import GenerationConfig
from nemo_desta.data.conversation import Tokenizer, render_text
from nemo_desta.generation.plan import TargetRow, draw, make_messages, make_plan, row_id, seed_for
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.matching import mentions, normalise
from nemo_desta.seed.prompts import COMPARISON, VALUE, Prompt, PromptPool

ORDINALS = ("first", "second", "third")
NUMBERS = ("zero", "one", "two", "three")
MARGIN = 1.2  # ratio from which two numbers count as different
ATTEMPTS = 20  # draws of clips for one question, before it is left out

_ORDINAL = re.compile(r"\b(?:(first|1st)|(second|2nd)|(third|3rd)|clips? (?:number )?(?:(1|one)|(2|two)|(3|three)))\b")
_SPOKEN_SOUND = "a sound effect"  # how a question names the domain "sound"


@dataclass(frozen=True)
class _Clip:
    cut: Any  # of Lhotse, which has no common typed base for cuts
    attributes: dict[str, str]


def whole_plan(
    cuts: CutSet | Sequence[Cut],
    pool: PromptPool,
    config: GenerationConfig,
    tokenizer: Tokenizer,
    chosen: Sequence[tuple[str, str]] | None = None,
) -> list[TargetRow]:
    """All rows of a run: about one clip (`make_plan`), then about several.

    Args:
        chosen: see `make_plan`.

    Raises:
        ValueError: see `make_plan`; or ``multi_audio_fraction`` is outside [0, 1], or nothing can be compared.
    """
    single = make_plan(cuts, pool, config, tokenizer, chosen)
    fraction = config.multi_audio_fraction
    if not 0 <= fraction <= 1:
        raise ValueError(f"generation.multi_audio_fraction={fraction} is outside [0, 1]")
    return [*single, *comparison_rows(cuts, pool, config, tokenizer, round(fraction * len(single)))] if fraction else single


def comparison_rows(cuts: Iterable[Cut], pool: PromptPool, config: GenerationConfig, tokenizer: Tokenizer, count: int) -> list[TargetRow]:
    """`count` rows about several clips; fewer where clips and prompts give no more different ones.

    Questions of the same group (attribute, what is asked, number of clips) take turns with those of the other groups.

    Raises:
        ValueError: the pool has no such prompts, or no clips can be compared by them.
    """
    groups: dict[tuple[str, ...], list[Prompt]] = defaultdict(list)
    for prompt in pool:
        if prompt.kind == COMPARISON:
            groups[str(prompt.clips), prompt.domain, prompt.ask or "", prompt.attribute or ""].append(prompt)
    clips = sorted((_Clip(cut, attributes_of(cut)) for cut in cuts), key=lambda c: draw(config.seed, "several", c.cut.id))
    decks = [deck for prompts in groups.values() if (deck := _Deck(prompts, clips, config.seed)).usable]
    if not decks and count:
        raise ValueError(f"generation.multi_audio_fraction={config.multi_audio_fraction}: no prompt of kind {COMPARISON!r} fits any clips of the training set")
    rows: dict[str, TargetRow] = {}
    misses = 0
    while decks and len(rows) < count and misses < ATTEMPTS * len(decks):
        for deck in decks:
            found = deck.next()
            row = _row(*found, config, tokenizer, deck.values) if found else None
            if row is None or row.row_id in rows:
                misses += 1
            elif len(rows) < count:
                rows[row.row_id], misses = row, 0
    return list(rows.values())


class _Deck:
    """The questions of one group, and the clips that they may be about."""

    def __init__(self, prompts: Sequence[Prompt], clips: Sequence[_Clip], seed: int) -> None:
        self.prompts, self.seed, self.turn = prompts, seed, 0
        first = prompts[0]
        self.clips = [clip for clip in clips if first.fits(clip.attributes.get("domain"), clip.attributes, clips=first.clips)]
        self.by_value: dict[str, list[_Clip]] = defaultdict(list)
        for clip in self.clips:
            self.by_value[clip.attributes.get(first.attribute or "", "")].append(clip)
        self.values = tuple(sorted(self.by_value))
        different = first.ask in ("which", "same", "most", "least", "sort")
        self.usable = len(self.clips) >= first.clips and (len(self.values) > 1 or not different)

    def next(self) -> tuple[Prompt, list[_Clip], str | None] | None:
        """A prompt, its clips, and the value that it names; None where this draw of clips has no clear answer."""
        self.turn += 1
        prompt = self.prompts[self.turn % len(self.prompts)]
        key = (self.seed, "compare", prompt.id, self.turn)
        if prompt.ask in ("which", "count", "same", "list"):
            value = self.values[self.turn % len(self.values)]
            chosen = self._by_values(prompt, value, key)
            return (prompt, chosen, value if VALUE in prompt.text else None) if chosen else None
        chosen = self._any(self.clips, prompt.clips, key)
        if prompt.ask != "open" and not _apart([_number(c.attributes[prompt.attribute or ""]) for c in chosen]):
            return None
        return prompt, chosen, None

    def _by_values(self, prompt: Prompt, value: str, key: tuple[object, ...]) -> list[_Clip]:
        """Clips with and without a value: one with it for *which*, any number for the others."""
        own, others = self.by_value[value], [clip for name in self.values if name != value for clip in self.by_value[name]]
        wanted = 1 if prompt.ask == "which" else draw(*key, "matches") % (prompt.clips + 1)
        wanted = min(wanted, len(own))
        if prompt.clips - wanted > len(others):
            return []
        chosen = [*self._any(own, wanted, (*key, "own")), *self._any(others, prompt.clips - wanted, (*key, "others"))]
        return sorted(chosen, key=lambda c: draw(*key, "place", c.cut.id))

    @staticmethod
    def _any(clips: Sequence[_Clip], count: int, key: tuple[object, ...]) -> list[_Clip]:
        """Different clips, by a hash: any of millions without looking at all of them."""
        found: dict[int, _Clip] = {}
        step = 0
        while len(found) < count and step < ATTEMPTS * count:
            index = draw(*key, step) % len(clips)
            found.setdefault(index, clips[index])
            step += 1
        return list(found.values())


def _apart(numbers: Sequence[float]) -> bool:
    """Whether all numbers are clearly different."""
    ordered = sorted(numbers)
    return all(b >= a * MARGIN and b >= a + 1 for a, b in pairwise(ordered))


def _number(text: str) -> float:
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    assert found is not None, text
    return float(found[0])


def _row(
    prompt: Prompt, clips: Sequence[_Clip], value: str | None, config: GenerationConfig, tokenizer: Tokenizer, values: tuple[str, ...]
) -> TargetRow | None:
    """One row; None where fewer clips were drawn than the question is about."""
    if len(clips) < prompt.clips:
        return None
    spoken = _SPOKEN_SOUND if (prompt.attribute, value) == ("domain", "sound") else value
    asked = replace(prompt, text=prompt.text.replace(VALUE, spoken or ""))
    messages = make_messages(asked.text, config.system_prompt, len(clips))
    seeds = [seed_for(clip.cut, asked, focused=config.focused_seed) for clip in clips]
    names = [clip.cut.id for clip in clips]
    return TargetRow(
        row_id=row_id("\x1e".join(names), f"{prompt.id}\x1e{value or ''}", 0),
        cut_id=names[0],
        prompt=asked,
        messages=messages,
        text=render_text(messages, tokenizer, seeds),
        seed="\n".join(seeds),
        seeds=tuple(seeds),
        attributes={"domain": _shared_domain(clips)},
        others=tuple(names[1:]),
        gold=_gold(prompt, [clip.attributes.get(prompt.attribute or "", "") for clip in clips], value),
        values=values,
    )


def _shared_domain(clips: Sequence[_Clip]) -> str:
    domains = {clip.attributes.get("domain", "unknown") for clip in clips}
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
