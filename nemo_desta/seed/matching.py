"""Which value of an attribute does a sentence name?

One rule for the filters of target generation and for the scoring of evaluation, so that a target which was kept as right would also be scored as right.
The words of a value stand in ``synonyms.yaml``; longer words win over the shorter words inside them ("not noisy" over "noisy", "big cat" over "cat"),
every match is on whole words ("male" is not found in "female"), and a word that the sentence negates ("not male", "rather than music") does not count.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

SYNONYMS_PATH = Path(__file__).with_name("synonyms.yaml")
_SKIPPED = "a|an|the|in|very|too|at all|really|by|any|much|obvious|audible|noticeable|significant|have|has|contain|sound|be|trace of|sign of|signs of"
_NEGATION = re.compile(
    r"\b(?:not|never|cannot|neither|nor|no|without|isnt|arent|doesnt|rather than|instead of|other than|free of|free from|lacks?|lack of|absence of)"
    rf"(?: (?:{_SKIPPED}))* $"
)
_STOP_WORDS = re.compile(
    r"a|an|and|are|as|at|audio|be|by|can|clip|for|from|has|have|hear|heard|i|in|is|it|its|of|on|or|recording|sounds?|that|the|this|to|was|with"
)


@dataclass(frozen=True)
class Mention:
    """One place of a sentence that names a value."""

    value: str
    own: bool  # by its own name, not by a synonym
    start: int  # characters of the normalised text
    end: int
    weak: bool  # counts only where the sentence holds no strong mention
    negated: bool


def normalise(text: str) -> str:
    """Lower case, compatibility-normalised, hyphens and underscores as spaces, apostrophes dropped, runs of space as one."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("'", "")
    return re.sub(r"[\s\-‐-―_]+", " ", text).strip()


@lru_cache(maxsize=1)
def synonyms() -> dict[str, dict[str, dict[str, list[str]]]]:
    """The table of ``synonyms.yaml``: attribute -> value -> {"strong": words, "weak": words, "denies": values}, each may be missing."""
    table: dict[str, dict[str, dict[str, list[str]]]] = yaml.safe_load(SYNONYMS_PATH.read_text(encoding="utf-8"))
    return table


def _entry(attribute: str, value: str) -> dict[str, list[str]]:
    """What the table says of one value."""
    own = normalise(value)
    return next((words for name, words in synonyms().get(attribute, {}).items() if normalise(name) == own), {})


def _forms(attribute: str, value: str) -> tuple[list[str], list[str]]:
    """Normalised strong and weak words of one value; the value itself is the first strong one."""
    own, entry = normalise(value), _entry(attribute, value)
    strong, weak = ([normalise(word) for word in entry.get(kind, [])] for kind in ("strong", "weak"))
    # A value whose own name says little ("sound") is listed among its weak words.
    return ([] if own in weak else [own, *_key_names(own)]) + strong, weak


def _key_names(value: str) -> list[str]:
    """Other spellings of a musical key: ``f# minor`` -> ``f sharp minor``, ``bb major`` -> ``b flat major``."""
    match = re.fullmatch(r"([a-g])(#|b)( (?:major|minor))?", value)
    return [f"{match[1]} {'sharp' if match[2] == '#' else 'flat'}{match[3] or ''}"] if match else []


@lru_cache(maxsize=4096)
def _pattern(form: str) -> re.Pattern[str]:
    """Whole-word pattern of a normalised form, plural allowed; numbers do not match inside longer numbers."""
    plural = "(?:e?s)?" if form[-1:].isalpha() and len(form) > 2 else ""
    return re.compile(rf"(?<![\w#])(?<!\d[.,]){re.escape(form)}{plural}(?![\w#])(?![.,]\d)")


def mentions(text: str, attribute: str, values: Iterable[str]) -> list[Mention]:
    """All places where `text` names one of `values`; a place inside a longer one is left out.

    Args:
        text: A sentence, any case.
        attribute: Name of the attribute, which selects the synonyms (``language``, ``gender``, ...).
        values: The values to look for. Other values of the table still shadow ("big cat" is no "cat").

    Returns:
        Mentions in order of their place.
    """
    plain = normalise(text)
    wanted = list(dict.fromkeys(values))
    known = {normalise(value) for value in wanted}
    candidates = wanted + [value for value in synonyms().get(attribute, {}) if normalise(value) not in known]
    found = [mention for value in candidates for mention in _mentions_of(plain, attribute, value)]
    shadowed = {m for m in found for o in found if _shadows(o, m, o.value in wanted)}
    return sorted((m for m in found if m.value in wanted and m not in shadowed), key=lambda m: (m.start, m.value))


def _mentions_of(plain: str, attribute: str, value: str) -> Iterator[Mention]:
    strong, weak = _forms(attribute, value)
    own = normalise(value)
    for form in filter(None, [*strong, *weak]):
        for match in _pattern(form).finditer(plain):
            negated = _NEGATION.search(plain[: match.start()]) is not None
            yield Mention(value, form == own, match.start(), match.end(), form not in strong, negated)


def _shadows(other: Mention, mention: Mention, wanted: bool) -> bool:
    """Whether `other` explains the place better: it is longer, or it is a wanted value's own name where `mention` is a synonym (rooster, chicken)."""
    if not (other.start <= mention.start and mention.end <= other.end):
        return False
    return other.end - other.start > mention.end - mention.start or (wanted and other.own and not mention.own and other.value != mention.value)


def named_values(text: str, attribute: str, values: Iterable[str]) -> list[str]:
    """Distinct values that `text` affirms, in order; weak words count only where there is no strong one.

    A negated value affirms the one that denies it ("without noise": clean), with the strength of a strong word.
    """
    wanted = list(dict.fromkeys(values))
    found = mentions(text, attribute, wanted)
    opposite = {normalise(denied): value for value in wanted for denied in _entry(attribute, value).get("denies", [])}
    strong = [opposite.get(normalise(m.value)) if m.negated else m.value for m in found if m.negated or not m.weak]
    affirmed = [value for value in strong if value is not None] or [m.value for m in found if not m.negated]
    return list(dict.fromkeys(affirmed))


def match_value(text: str, attribute: str, values: Sequence[str]) -> str | None:
    """The one value of `values` that `text` names.

    Args:
        text: An answer, e.g. "The speaker is a woman."
        attribute: Name of the attribute (``gender``).
        values: All values that the attribute can have (``["female", "male"]``).

    Returns:
        The value as written in `values`; None when the text names none of them or more than one.
    """
    named = named_values(text, attribute, values)
    return named[0] if len(named) == 1 else None


def content_words(text: str) -> set[str]:
    """Words that carry content, crudely stemmed (``barking`` -> ``bark``, ``dogs`` -> ``dog``)."""
    words = re.findall(r"\w+", normalise(text))
    return {re.sub(r"(?:ing|ed|es|s)$", "", word) if len(word) > 4 else word for word in words if not _STOP_WORDS.fullmatch(word)}


def overlap(text: str, gold: str) -> float:
    """Share of the content words of `gold` that `text` holds, 0..1; for free labels and spoken content.

    A `gold` of stop words alone ("It is.") must stand in `text` word for word: 1 or 0.
    """
    if wanted := content_words(gold):
        return len(wanted & content_words(text)) / len(wanted)
    said, whole = (" ".join(re.findall(r"\w+", normalise(part))) for part in (gold, text))
    return float(bool(said) and f" {said} " in f" {whole} ")


def names_number(text: str, gold: float, tolerance: float = 0.1) -> bool:
    """Whether `text` holds a number, and every number in it lies within the relative `tolerance` of `gold` (absolute 0.5 at least)."""
    numbers = [float(found.replace(",", ".")) for found in re.findall(r"(?<![\w.,])-?\d+(?:[.,]\d+)?", text)]
    return bool(numbers) and all(abs(number - gold) <= max(abs(gold) * tolerance, 0.5) for number in numbers)
