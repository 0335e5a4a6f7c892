"""How clips and their words stand in a prompt for vLLM.

vLLM applies the tokenizer's chat template, tokenises, and hands token ids to the model's processor. The template of an exported model (``audio_turns.j2``
before the LLM's own) writes for every clip, between the audio tags, *marks* made of the placeholder token:

===================  ==============================================
``P``                the processor finds the words (Whisper), or has none
``P P words P P``    these words; alone between two special tokens, they become the ids that they have alone
``P P P``            no words
===================  ==============================================

The processor turns marks into one ``P`` and the words' ids (:func:`with_words`), and vLLM the ``P`` into the query slots: what
`nemo_desta.data.conversation.render` gives. A prompt that it gave already has its slots: a run of as many ``P``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_desta.data.conversation import AUDIO_LOCATOR, END_AUDIO, START_AUDIO, TEMPLATE_DATE

LEAST_QUERIES = 4  # of a clip; fewer slots would look like marks
_OPEN, _WORDS, _NONE = 1, 2, 3  # length of a mark


@dataclass(frozen=True)
class Clip:
    """A clip's place in a prompt.

    Attributes:
        start, stop: the ids that its marks take.
        words: ids of its transcript; None = nobody said; empty behind ready slots, whose words follow as they are.
    """

    start: int
    stop: int
    words: list[int] | None


def chat_template(own: str, placeholder_token: str, system_prompt: str | None) -> str:
    """A chat template that takes OpenAI's turns with audio.

    Args:
        own: the LLM's template.
        placeholder_token: stands for a query slot.
        system_prompt: put before conversations with audio that have no system turn; None = nothing is.
    """
    names = {
        "audio_slot": placeholder_token,
        "audio_locator": AUDIO_LOCATOR,
        "audio_start": START_AUDIO,
        "audio_end": END_AUDIO,
        "audio_system_prompt": system_prompt or "",
        "date_string": TEMPLATE_DATE,
    }
    head = "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in names.items())
    return head + (Path(__file__).parent / "audio_turns.j2").read_text(encoding="utf-8") + own


def find_clips(ids: Sequence[int], placeholder_id: int, num_queries: int, no_words: Sequence[int]) -> list[Clip]:
    """The clips of a prompt in order.

    Args:
        ids: of the prompt.
        placeholder_id: of the placeholder token.
        num_queries: slots of a clip.
        no_words: ids behind a clip without words.

    Raises:
        ValueError: placeholders that are none of the marks.
    """
    runs = _runs(ids, placeholder_id)
    clips: list[Clip] = []
    while runs:
        start, length = runs.pop(0)
        stop = start + length
        if length == _WORDS:
            if not runs or runs[0][1] != _WORDS:
                raise ValueError("the prompt opens a clip's words and does not close them: write the placeholder token twice before and behind them")
            close, length = runs.pop(0)
            clips.append(Clip(start, close + length, list(ids[stop:close])))
        elif length in (_OPEN, _NONE, num_queries):
            clips.append(Clip(start, stop, {_OPEN: None, _NONE: list(no_words)}.get(length, [])))
        else:
            raise ValueError(f"{length} placeholder tokens in a row mark no clip: write 1 (words open), 3 (no words) or {num_queries} (query slots)")
    return clips


def with_words(ids: Sequence[int], clips: Sequence[Clip], placeholder_id: int, words: Sequence[Sequence[int]]) -> list[int]:
    """The prompt with one placeholder and the words' ids in the place of every clip's marks."""
    result: list[int] = []
    done = 0
    for clip, spoken in zip(clips, words, strict=True):
        result += [*ids[done : clip.start], placeholder_id, *spoken]
        done = clip.stop
    return result + list(ids[done:])


def _runs(ids: Sequence[int], placeholder_id: int) -> list[tuple[int, int]]:
    """(start, length) of the placeholders that stand in a row."""
    runs: list[tuple[int, int]] = []
    for index, token in enumerate(ids):
        if token != placeholder_id:
            continue
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
