"""Which answers may become targets. Every filter is a small pure function; the first that objects names the reason.

Order (a row is counted under one reason only): `failed`, `empty`, `cut_off`, `repetition`, `refusal`, `reveals_text`, `wrong_language`, `contradiction`.
A small backbone needs them: it drifts into the language of the transcript, copies the description, or answers "male" for a female speaker.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from nemo_desta.generation.comparison import answers_comparison
from nemo_desta.generation.engines.base import FAILED, STOP, Completion
from nemo_desta.generation.plan import FREE_ATTRIBUTES, NUMBER_ATTRIBUTES, TargetRow
from nemo_desta.seed.matching import mentions, named_values, names_number, normalise, overlap

Vocabulary = Mapping[str, Sequence[str]]
"""Attribute -> all values of it in the training set."""

FREQUENT_WORDS_PATH = Path(__file__).with_name("frequent_words.yaml")
MIN_OVERLAP = 0.5  # share of the content words of a free label that an answer must hold
OPEN_CHECKED = ("gender", "language")  # attributes that an open answer may leave out but not get wrong
QUOTING = frozenset({"transcript"})  # attributes whose answer is in the language of the clip

_REVEALS = re.compile(
    r"\btime ?stamps?\b|\bmeta ?data\b|\bseed\b|\bdescriptions?\b(?! of)|\btext (?:description|provided|above)\b"
    r"|\b(?:written|as) text\b|\bthe text\b(?! message)|\bthe (?:provided|given) (?:text|information)\b"
    r"|\d\d:\d\d\s?[-\u2013]\s?\d\d:\d\d|\[\d\d:\d\d|</?(?:start|end)_audio>|<\|",
    re.IGNORECASE,
)
_SCHEMA = re.compile(r"\w+: [^,:()]+, (?:\w+ ){0,3}\w+: ")  # "Language: Spanish, Gender: female"
_REFUSAL = re.compile(
    r"\b(?:i'?m sorry|i am sorry|i apologi[sz]e|as an ai|unable to (?:hear|listen|process|determine)|not (?:specified|provided|mentioned|stated)"
    r"|(?:i|we) (?:cannot|can't|can not|could not|couldn't|am unable|am not able|don't have)|(?:please|could you) (?:provide|upload|share))\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|‘[^’]*’")


@lru_cache(maxsize=1)
def _frequent_words() -> dict[str, frozenset[str]]:
    """Frequent words of English and of other languages in Latin script (without those that are also English words)."""
    lists = yaml.safe_load(FREQUENT_WORDS_PATH.read_text(encoding="utf-8"))
    return {name: frozenset(words.split()) for name, words in lists.items()}


def failed(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The engine would not answer, e.g. because the prompt is beyond the server's limit."""
    return answer.finish_reason == FAILED


def empty(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """No letter or digit in the answer."""
    return not any(char.isalnum() for char in answer.text)


def cut_off(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The backbone did not end its turn: max_new_tokens were used up, or a server broke off."""
    return answer.finish_reason != STOP


def repetition(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """A loop: a line or sentence three times, one to eight words four times in a row, or a long answer that is mostly the same four-word sequences."""
    sentences = [s for s in map(normalise, re.split(r"[.!?\n]+", answer.text)) if len(s.split()) > 2]
    if any(sentences.count(s) >= 3 for s in set(sentences)):
        return True
    words = re.findall(r"\w+", normalise(answer.text))
    if any(_loops(words, width) for width in range(1, 9)):
        return True
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(grams) >= 20 and len(set(grams)) / len(grams) < 0.5


def _loops(words: Sequence[str], width: int, times: int = 4) -> bool:
    """Whether `width` words stand `times` times in a row."""
    return any(list(words[i : i + width * times]) == list(words[i : i + width]) * times for i in range(len(words) - width * times + 1))


def refusal(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The backbone says that it cannot listen or was not told (speech quoted from the clip does not count)."""
    return _REFUSAL.search(_own_words(row, answer.text)) is not None


def reveals_text(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The answer talks of the description it read, or copies its form, instead of talking of a sound."""
    own = _own_words(row, answer.text)
    return _REVEALS.search(own) is not None or _SCHEMA.search(own) is not None


def _own_words(row: TargetRow, text: str) -> str:
    """The answer without what it quotes from the clip."""
    spoken = row.attributes.get("transcript")
    return _QUOTED.sub(" ", text.replace(spoken, " ") if spoken and len(spoken) > 8 else text)


def wrong_language(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The answer is not in English; quotations, and answers that repeat what was said, may be in any language."""
    if row.prompt.attribute in QUOTING:
        return False
    return not is_english(_QUOTED.sub(" ", answer.text))


def is_english(text: str) -> bool:
    """Whether a text is plausibly English, by script and frequent words; short texts without evidence pass."""
    letters = [char for char in text if char.isalpha()]
    if not letters:
        return True
    if sum(char.isascii() for char in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    english, foreign = (sum(word in _frequent_words()[name] for word in words) for name in ("english", "foreign"))
    return english >= foreign and (english > 0 or len(words) < 6)


def contradiction(row: TargetRow, answer: Completion, values: Vocabulary) -> bool:
    """The answer does not give the value of the seed (attribute questions, comparisons), or gives another speaker gender or language (open questions)."""
    if row.others:
        return not answers_comparison(row, answer.text)
    if row.prompt.attribute is None:
        return any(_denies(answer.text, key, row.attributes[key], values.get(key, ())) for key in OPEN_CHECKED if key in row.attributes)
    return not gives(answer.text, row.prompt.attribute, row.attributes[row.prompt.attribute], values.get(row.prompt.attribute, ()))


def gives(text: str, attribute: str, gold: str, values: Sequence[str]) -> bool:
    """Whether `text` answers a question for `attribute` with `gold` and with nothing else.

    Args:
        gold: the seed's value; several joined by "and" must all be there.
        values: all values of the attribute in the training set.
    """
    if attribute in FREE_ATTRIBUTES:
        return overlap(text, gold) >= MIN_OVERLAP
    if attribute in NUMBER_ATTRIBUTES:
        number = re.search(r"-?\d+(?:\.\d+)?", gold)
        return number is not None and names_number(text, float(number[0]))
    parts = gold.split(" and ")
    others = [value for value in values if value != gold and value not in parts and not set(parts) & set(value.split(" and "))]
    return set(named_values(text, attribute, [*parts, *others])) == set(parts)


def _denies(text: str, attribute: str, gold: str, values: Sequence[str]) -> bool:
    """Whether `text` states another value and not the right one."""
    stated = {m.value for m in mentions(_QUOTED.sub(" ", text), attribute, values) if not m.weak and not m.negated}
    return bool(stated) and gold not in stated


Filter = Callable[[TargetRow, Completion, Vocabulary], bool]

FILTERS: tuple[tuple[str, Filter], ...] = (
    ("failed", failed),
    ("empty", empty),
    ("cut_off", cut_off),
    ("repetition", repetition),
    ("refusal", refusal),
    ("reveals_text", reveals_text),
    ("wrong_language", wrong_language),
    ("contradiction", contradiction),
)


def reject_reason(row: TargetRow, answer: Completion, values: Vocabulary) -> str | None:
    """Name of the first filter that objects to an answer; None for a good one."""
    return next((name for name, objects in FILTERS if objects(row, answer, values)), None)
