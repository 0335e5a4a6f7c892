"""THE rendering of conversations (contract C2): messages with ``<|AUDIO|>`` locators to ids, spans and labels.

Target generation, training, evaluation, export and serving call this module; there is no second copy. An audio block is::

    <start_audio>  N query slots  transcript tokens  <end_audio>

The ids equal the reference's (facts in ``docs/model.md``) but for the named differences below:

* Tags once: the reference wraps every locator in tags at inference, doubling those the caller wrote, and none in training;
  here a locator has its tags exactly once, always.
* Transcript ids in place: the reference puts placeholders where the transcript goes and overwrites their embeddings; here the transcript's
  own ids stand there, whose embeddings are the same. `Rendered.placeholder_ids` gives the reference's form.
* Response apart: the reference tokenises context and response together and finds the first label by the length of the context alone, which is
  off where a token crosses the border; here the response is tokenised apart.
* One BOS: the reference's text-only branch adds a second BOS; here the chat template's own is the only one.

Clips share one locator syntax in every role; the n-th locator of a conversation takes the n-th clip.

Nothing heavy is imported here: servers render prompts without PyTorch, and an export carries this file into environments without this library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from nemo_desta.data.supervision import Message

AUDIO_LOCATOR = "<|AUDIO|>"
START_AUDIO, END_AUDIO = "<start_audio>", "<end_audio>"
_TAGGED_OR_BARE = re.compile(f"(?:{re.escape(START_AUDIO)})?{re.escape(AUDIO_LOCATOR)}(?:{re.escape(END_AUDIO)})?")
NO_TRANSCRIPT = " "  # what the reference writes for a clip without speech
IGNORE = -100  # label of positions without loss
TEMPLATE_DATE = "26 Jul 2024"  # Llama-3.1's template prints a date; pinned to the one its targets were written under

Span = tuple[int, int]
"""(start, length) in tokens."""


class Tokenizer(Protocol):
    """What the rendering needs of a transformers tokenizer."""

    eos_token: str
    eos_token_id: int

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...

    def __call__(self, text: str, *, add_special_tokens: bool = ...) -> Any: ...


@dataclass(frozen=True)
class AudioLayout:
    """How audio stands in a token sequence; one per model, stored in its checkpoint."""

    placeholder_token: str  # a token that no text uses; stands for a query slot
    num_queries: int = 64
    max_transcript_tokens: int | None = 100  # the reference cuts transcripts in training only; None = no cut


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        input_ids: placeholder ids at the query slots, transcript ids after them, ordinary ids elsewhere.
        audio_spans: the query slots of each clip; length = num_queries.
        transcript_spans: the transcript of each clip, right behind its slots.
        labels: same length as input_ids; `IGNORE` but for the response and its end-of-turn token.
        placeholder_id: id at the query slots.
    """

    input_ids: list[int]
    audio_spans: list[Span] = field(default_factory=list)
    transcript_spans: list[Span] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    placeholder_id: int = -1

    @property
    def placeholder_ids(self) -> list[int]:
        """The ids as the reference has them: placeholders at the transcript too."""
        ids = list(self.input_ids)
        for start, length in self.transcript_spans:
            ids[start : start + length] = [self.placeholder_id] * length
        return ids

    @property
    def label_start(self) -> int:
        """Index of the first label; the length where there is none."""
        return next((i for i, label in enumerate(self.labels) if label != IGNORE), len(self.labels))


def count_locators(messages: Sequence[Message]) -> int:
    """Number of clips that the messages ask for."""
    return sum(m["content"].count(AUDIO_LOCATOR) for m in messages)


def _tag_locators(content: str) -> str:
    """Give every locator its tags exactly once."""
    return _TAGGED_OR_BARE.sub(START_AUDIO + AUDIO_LOCATOR + END_AUDIO, content)


def _chat_text(messages: Sequence[Message], tokenizer: Tokenizer, *, add_generation_prompt: bool = True) -> str:
    """The LLM's own chat template, with its date pinned."""
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=TEMPLATE_DATE)
    assert isinstance(text, str)
    return text


def render_text(messages: Sequence[Message], tokenizer: Tokenizer, seeds: Sequence[str] = ()) -> str:
    """The prompt that the backbone answers when it writes targets: each locator becomes a seed description between the audio tags.

    Args:
        messages: the same messages that training will see.
        seeds: one seed description a locator, in order.

    Raises:
        ValueError: the numbers of locators and seeds differ.
    """
    _check_count(messages, len(seeds))
    remaining = iter(seeds)

    def fill(content: str) -> str:
        pieces = _tag_locators(content).split(AUDIO_LOCATOR)
        return pieces[0] + "".join(next(remaining) + piece for piece in pieces[1:])

    return _chat_text([{**m, "content": fill(m["content"])} for m in messages], tokenizer)


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, layout: AudioLayout, *, transcripts: Sequence[str | None] = (), response: str | None = None
) -> Rendered:
    """Messages (and, for training, the response) to ids, spans and labels.

    Args:
        messages: turns with ``role`` and ``content``; every `AUDIO_LOCATOR` in a content takes one clip.
        transcripts: the transcript shown for each clip, in order; None or blank becomes `NO_TRANSCRIPT`.
        response: the target; None renders the prompt of generation, without labels.

    Raises:
        ValueError: numbers of locators and transcripts differ, or a content holds the placeholder token.
    """
    _check_count(messages, len(transcripts))
    tagged = []
    for m in messages:
        if layout.placeholder_token in m["content"]:
            raise ValueError(f"the placeholder token {layout.placeholder_token!r} stands in a message: remove it from {m['content'][:80]!r}")
        content = _tag_locators(m["content"]).replace(AUDIO_LOCATOR, layout.placeholder_token)
        tagged.append({**m, "content": content})
    rendered = _encode_blocks(_chat_text(tagged, tokenizer), tokenizer, layout, transcripts)
    if response is None:
        return rendered
    target = [*_encode(tokenizer, response), tokenizer.eos_token_id]
    return Rendered(
        input_ids=rendered.input_ids + target,
        audio_spans=rendered.audio_spans,
        transcript_spans=rendered.transcript_spans,
        labels=[IGNORE] * len(rendered.input_ids) + target,
        placeholder_id=rendered.placeholder_id,
    )


def render_chat_text(text: str, tokenizer: Tokenizer, layout: AudioLayout, *, transcripts: Sequence[str | None] = ()) -> Rendered:
    """Like `render`, for a prompt to which another program has already applied the chat template (a server that calls an input processor).

    Raises:
        ValueError: numbers of locators and transcripts differ, or the text holds the placeholder token.
    """
    _check_count([{"role": "user", "content": text}], len(transcripts))
    if layout.placeholder_token in text:
        raise ValueError(f"the placeholder token {layout.placeholder_token!r} stands in the prompt: remove it from {text[:80]!r}")
    return _encode_blocks(_tag_locators(text).replace(AUDIO_LOCATOR, layout.placeholder_token), tokenizer, layout, transcripts)


def _encode_blocks(text: str, tokenizer: Tokenizer, layout: AudioLayout, transcripts: Sequence[str | None]) -> Rendered:
    """Tokenise a text with one placeholder a clip and give each its block."""
    placeholder_id = _placeholder_id(cast(Any, tokenizer), layout.placeholder_token)
    shown = [transcript_ids(tokenizer, transcript, layout.max_transcript_tokens) for transcript in transcripts]
    return _expand(_encode(tokenizer, text), placeholder_id, layout.num_queries, shown)


def _expand(context: list[int], placeholder_id: int, num_queries: int, transcripts: Sequence[list[int]]) -> Rendered:
    """Replace the n-th placeholder by its query slots and the n-th transcript.

    Expanding ids equals the reference's tokenising of a string with repeated placeholders, because an added token is never merged with its neighbours.
    """
    ids: list[int] = []
    audio_spans: list[Span] = []
    transcript_spans: list[Span] = []
    clips = iter(transcripts)
    for token in context:
        if token != placeholder_id:
            ids.append(token)
            continue
        text_ids = next(clips)
        audio_spans.append((len(ids), num_queries))
        ids += [placeholder_id] * num_queries
        transcript_spans.append((len(ids), len(text_ids)))
        ids += text_ids
    assert len(audio_spans) == len(transcripts), "the chat template dropped or doubled a message"
    return Rendered(ids, audio_spans, transcript_spans, [IGNORE] * len(ids), placeholder_id)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return ids


def transcript_ids(tokenizer: Tokenizer, text: str | None, limit: int | None = None) -> list[int]:
    """Tokens that stand behind a clip's slots; None or blank gives those of `NO_TRANSCRIPT`."""
    shown = text if text and text.strip() else NO_TRANSCRIPT
    return _encode(tokenizer, shown)[:limit]


def check_words(ids: Sequence[int], tokenizer: Any, placeholder_token: str) -> None:
    """Refuse words that a request brings for a clip and that steer the LLM instead of standing beside the sound. THE rule of every server.

    Training keeps what its corpora hold.

    Args:
        ids: of the words, as `transcript_ids` gives them.
        tokenizer: of the LLM.
        placeholder_token: stands for a query slot.

    Raises:
        ValueError: the placeholder token, or a token that the tokenizer calls special (ends of turns, roles), is among them.
    """
    controls = _controls(tokenizer, placeholder_token)
    found = [token_id for token_id in ids if token_id in controls]
    if found:
        raise ValueError(f"a transcript holds the special token {tokenizer.decode(found[:1])!r}: remove it")


@lru_cache(maxsize=16)
def _controls(tokenizer: Any, placeholder_token: str) -> frozenset[int]:
    special = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset({_placeholder_id(tokenizer, placeholder_token), *special})


@lru_cache(maxsize=16)
def _placeholder_id(tokenizer: Any, token: str) -> int:
    ids = _encode(tokenizer, token)
    if len(ids) != 1:
        raise ValueError(f"model.placeholder_token={token!r} is {len(ids)} tokens for this LLM: choose a special token of its vocabulary that no text uses")
    return ids[0]


def _check_count(messages: Sequence[Message], clips: int) -> None:
    wanted = count_locators(messages)
    if wanted != clips:
        raise ValueError(f"the messages have {wanted} {AUDIO_LOCATOR} locators, but {clips} clips were given: write one locator for each clip")
