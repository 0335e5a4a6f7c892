"""The rendering equals a plain restatement of the reference's (behaviour: messages -> placeholders -> retokenise), but for the named differences."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from nemo_desta.data.conversation import IGNORE, AudioLayout, check_words, render, render_text, transcript_ids
from tests.tiny import CHATML, LLAMA3, PLACEHOLDER, tiny_tokenizer

QUERIES = 5
LAYOUT = AudioLayout(PLACEHOLDER, QUERIES, max_transcript_tokens=None)
SYSTEM = {"role": "system", "content": "Focus on the audio clips and instructions."}


def reference(messages, tokenizer, transcripts, response=None, placeholder_token=PLACEHOLDER):
    """The reference's steps, written down naively: template, tags, placeholders as text, tokenise, back to a string, tokenise again."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024")
    text = text.replace("<|AUDIO|>", "<start_audio><|AUDIO|><end_audio>")
    sizes = []
    for transcript in transcripts:
        shown = transcript if transcript else " "
        sizes.append(len(tokenizer(shown, add_special_tokens=False)["input_ids"]))
        text = text.replace("<|AUDIO|>", placeholder_token * (QUERIES + sizes[-1]), 1)
    again = tokenizer.convert_tokens_to_string(tokenizer.tokenize(text))
    context = tokenizer(again, add_special_tokens=False)["input_ids"]
    placeholder = tokenizer.convert_tokens_to_ids(placeholder_token)
    starts, i = [], 0
    while placeholder in context[i:]:
        start = context.index(placeholder, i)
        starts.append(start)
        i = start + QUERIES + sizes[len(starts) - 1]
    if response is None:
        return context, list(zip(starts, sizes, strict=True)), len(context)
    full = tokenizer(again + response + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return full, list(zip(starts, sizes, strict=True)), len(context)


CASES = {
    "one clip": ([SYSTEM, {"role": "user", "content": "<|AUDIO|>\n\nWhat is said?"}], ["the man is in town"], "He says hello."),
    "no system prompt": ([{"role": "user", "content": "<|AUDIO|> Who speaks?"}], ["hello"], "A woman."),
    "no transcript": ([SYSTEM, {"role": "user", "content": "Listen: <|AUDIO|>\n\nWhat sound?"}], [None], "A dog."),
    "two clips": ([SYSTEM, {"role": "user", "content": "<|AUDIO|> <|AUDIO|>\nSame speaker?"}], ["one", "two words"], "Yes, the same."),
    "two turns": (
        [SYSTEM, {"role": "user", "content": "<|AUDIO|>\nFirst?"}, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And <|AUDIO|>?"}],
        ["a", None],
        "A cow.",
    ),
    "long transcript": ([SYSTEM, {"role": "user", "content": "<|AUDIO|>\n\nSummarise."}], ["so they said " * 90], "They spoke for long."),
    "non-latin": ([SYSTEM, {"role": "user", "content": "<|AUDIO|>\n\nЧто?"}], ["привет, мир"], "He greets the world in Russian."),
    "text only": ([SYSTEM, {"role": "user", "content": "What is two plus two?"}], [], "Four."),
}


@pytest.mark.parametrize("template", [CHATML, LLAMA3], ids=["chatml", "llama3"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("training", [False, True], ids=["prompt", "with response"])
def test_ids_spans_and_label_start_equal_the_reference(case, template, training):
    compare(*case, tiny_tokenizer(template), PLACEHOLDER, training)


@pytest.mark.assets
def test_a_real_tokenizer_gives_the_references_ids_too(asset):
    tokenizer = AutoTokenizer.from_pretrained(asset("smollm2-135m-instruct")["smollm2-135m-instruct"])
    for case in CASES.values():
        for training in (False, True):
            compare(*case, tokenizer, "<filename>", training)
    # Its template writes a system prompt of its own where the messages have none.
    spoken = tokenizer.decode(render(CASES["no system prompt"][0], tokenizer, AudioLayout("<filename>", QUERIES), transcripts=["hello"]).input_ids)
    assert spoken.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert "<start_audio>" + "<filename>" * QUERIES + "hello<end_audio>" in spoken


def compare(messages, transcripts, response, tokenizer, placeholder, training):
    layout = AudioLayout(placeholder, QUERIES, max_transcript_tokens=None)
    rendered = render(messages, tokenizer, layout, transcripts=transcripts, response=response if training else None)
    ids, spans, label_start = reference(messages, tokenizer, transcripts, response if training else None, placeholder)
    assert rendered.placeholder_ids == ids
    assert [(start, length) for (start, _), (_, length) in zip(rendered.audio_spans, rendered.transcript_spans, strict=True)] == spans
    assert rendered.label_start == label_start
    assert rendered.labels == [IGNORE] * label_start + ids[label_start:]


def test_transcript_ids_stand_where_the_reference_overwrites_embeddings():
    tokenizer = tiny_tokenizer()
    rendered = render(CASES["one clip"][0], tokenizer, LAYOUT, transcripts=["the man"])
    (start, length), (a, q) = rendered.transcript_spans[0], rendered.audio_spans[0]
    assert rendered.input_ids[start : start + length] == tokenizer("the man", add_special_tokens=False)["input_ids"]
    assert q == QUERIES and start == a + QUERIES


def test_tags_the_caller_wrote_are_not_doubled():
    tokenizer = tiny_tokenizer()
    bare = [{"role": "user", "content": "<|AUDIO|> hi"}]
    tagged = [{"role": "user", "content": "<start_audio><|AUDIO|><end_audio> hi"}]
    assert render(bare, tokenizer, LAYOUT, transcripts=["x"]) == render(tagged, tokenizer, LAYOUT, transcripts=["x"])


def test_labels_are_right_where_a_token_would_cross_the_border():
    # "\nth" can merge across the border of context and response when both are tokenised together; the labels must still spell the response.
    tokenizer = tiny_tokenizer()
    rendered = render([{"role": "user", "content": "<|AUDIO|>"}], tokenizer, LAYOUT, transcripts=[None], response="the tone")
    target = [label for label in rendered.labels if label != IGNORE]
    assert tokenizer.decode(target) == "the tone<|im_end|>"


def test_transcript_limit_cuts_the_transcript_only():
    tokenizer = tiny_tokenizer()
    layout = AudioLayout(PLACEHOLDER, QUERIES, max_transcript_tokens=4)
    rendered = render(CASES["long transcript"][0], tokenizer, layout, transcripts=["so they said " * 9], response="ok")
    assert rendered.transcript_spans[0][1] == 4
    assert tokenizer.decode([t for t in rendered.labels if t != IGNORE]) == "ok<|im_end|>"


def test_seed_text_takes_the_place_of_the_clip():
    tokenizer = tiny_tokenizer()
    text = render_text(CASES["one clip"][0], tokenizer, ["[00:00-00:02] Hi (Gender: male)"])
    assert "<start_audio>[00:00-00:02] Hi (Gender: male)<end_audio>\n\nWhat is said?" in text and text.endswith("<|im_start|>assistant\n")


def test_errors_name_the_remedy():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match=r"2 <\|AUDIO\|> locators, but 1 clips"):
        render([{"role": "user", "content": "<|AUDIO|><|AUDIO|>"}], tokenizer, LAYOUT, transcripts=["x"])
    with pytest.raises(ValueError, match="placeholder token"):
        render([{"role": "user", "content": f"a {PLACEHOLDER}"}], tokenizer, LAYOUT)
    with pytest.raises(ValueError, match=r"model\.placeholder_token"):
        render([{"role": "user", "content": "a"}], tokenizer, AudioLayout("two words", QUERIES))


@settings(max_examples=60, deadline=None)
@given(
    transcripts=st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=30)), max_size=3),
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=30),
    response=st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=30),
)
def test_spans_and_labels_are_consistent_for_any_text(transcripts, prompt, response):
    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "<|AUDIO|>" * len(transcripts) + prompt}]
    rendered = render(messages, tokenizer, LAYOUT, transcripts=transcripts, response=response)
    placeholder = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    slots = {i for start, length in rendered.audio_spans for i in range(start, start + length)}
    assert {i for i, token in enumerate(rendered.input_ids) if token == placeholder} == slots
    assert len(rendered.labels) == len(rendered.input_ids)
    assert tokenizer.decode([t for t in rendered.labels if t != IGNORE][:-1], skip_special_tokens=False) == response


@pytest.mark.parametrize("template", [CHATML, LLAMA3], ids=["chatml", "llama3"])
def test_words_of_a_request_hold_no_special_tokens(template):
    tokenizer = tiny_tokenizer(template)
    for text in (None, "", " ", "the man <|AUDIO|> in <b>town</b> <start_audio>"):
        check_words(transcript_ids(tokenizer, text), tokenizer, PLACEHOLDER)
    for token in (PLACEHOLDER, "<|eot_id|>", "<|im_start|>"):
        with pytest.raises(ValueError, match=f"a transcript holds the special token '{re.escape(token)}': remove it"):
            check_words(transcript_ids(tokenizer, f"well{token}{PLACEHOLDER} so"), tokenizer, PLACEHOLDER)
