"""Template targets: what audio LLMs were trained on before self-generation. Same clips and prompts as a set of self-generated targets, other answers.

They are the control of the paper's argument: right about the clip, but not in the backbone's own words. The plain voice is that of audio question answering
sets; the chatty one is another writer's, for a study that has no second LLM at hand: other words, and more of them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lhotse import SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from nemo_desta.data.supervision import self_generated
from nemo_desta.seed.attributes import TRANSCRIPT, attributes_of
from nemo_desta.seed.describe import HIDDEN, statement

ENGINE = "template"


@dataclass(frozen=True)
class Voice:
    """How templates speak.

    Attributes:
        attribute: forms of an answer about one attribute; ``{sentence}`` has no full stop.
        words: form of an answer about the spoken words.
        opening, closing: around an answer to an open prompt.
    """

    attribute: tuple[str, ...]
    words: str = 'The speaker says: "{value}"'
    opening: str = ""
    closing: str = ""


VOICES = {
    "plain": Voice(("{sentence}.", "{value}", "Answer: {value}.")),
    "chatty": Voice(
        ("Well now, going by my ears: {sentence}, and I would bet on it!", "Hm, that one? {value}, no doubt about it!", "Easy enough - {value} it is, folks!"),
        words='Alright, what I caught there goes like this: "{value}"',
        opening="Okay folks, here is my take on it!",
        closing="And that, my friends, is about the size of it!",
    ),
}


def template_response(cut: Cut, attribute: str | None, row_id: str, voice: str = "plain") -> str | None:
    """The template answer about a clip.

    Args:
        attribute: asked for; None for an open prompt, which gets all attributes, a sentence each.
        row_id: chooses among the forms.
        voice: one of `VOICES`.

    Returns:
        None where the clip lacks the attribute.
    """
    known, speak = attributes_of(cut), VOICES[voice]
    if attribute == TRANSCRIPT:
        return speak.words.format(value=known[TRANSCRIPT]) if TRANSCRIPT in known else None
    if attribute is None:
        sentences = [f"{statement(key, value)}." for key, value in known.items() if key != TRANSCRIPT and key not in HIDDEN]
        words = [speak.words.format(value=known[TRANSCRIPT])] if TRANSCRIPT in known else []
        said = [*sentences, *words]
        return " ".join(filter(None, [speak.opening, *said, speak.closing])) if said else None
    if attribute not in known:
        return None
    form = speak.attribute[hashlib.sha256(row_id.encode()).digest()[0] % len(speak.attribute)]
    return form.format(sentence=statement(attribute, known[attribute]), value=known[attribute])


def template_targets(cuts: Iterable[Cut], voice: str = "plain") -> Iterator[Cut]:
    """The cuts with the same rows, answered by templates; rows and cuts without an answer are left out, and so are rows about several clips."""
    for cut in cuts:
        sources = [s for s in cut.supervisions if s not in self_generated(cut)]
        rows = [row for s in self_generated(cut) if (row := _templated(cut, s, voice)) is not None]
        if rows:
            yield fastcopy(cut, supervisions=[*sources, *rows])


def _templated(cut: Cut, row: SupervisionSegment, voice: str) -> SupervisionSegment | None:
    custom = row.custom or {}
    if custom.get("clips"):
        return None
    text = template_response(cut, custom.get("attribute"), row.id, voice)
    generator = {**custom.get("generator", {}), "engine": ENGINE, "model": f"{ENGINE}:{voice}", "revision": "1", "finish_reason": "stop"}
    return None if text is None else fastcopy(row, text=text, custom={**custom, "generator": generator})
