"""The instructions of IFEval: hand-made responses on both sides of every rule, the published oddities, and properties of the counts."""

import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.evaluation.benchmarks.base import Mode
from nemo_desta.evaluation.ifeval import GOOGLE_RULES, SPEECH_RULES, Variant, ensure_punkt, follows, instruction_problem, loosened, punkt_path
from nemo_desta.evaluation.ifeval import text as language

# instruction, arguments, a response that follows it, one that does not
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["wal.ut", "TREE"]}, "a WALNUTTREE", "a walnut"),
    ("keywords:existence", {"keywords": ["(c"]}, "All (C) reserved", "All C"),  # no regular expression: literal
    ("keywords:frequency", {"keyword": " cat ", "frequency": 2, "relation": "at least"}, "Cat, concatenate", "cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat", "cat cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "dog"]}, "concatenate", "the Dog."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "Eve", "Ed"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "Ed", "Eve"),
    ("language:response_language", {"language": "fr"}, "Je ne sais pas encore où nous irons demain matin.", "I do not know yet where we will go tomorrow."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "it's two", "three"),  # an apostrophe parts two words
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "*** one *** two ***", "one *** *** two"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "But"}, 'So.\n\n"but," he said', "So.\n\nNow but"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "so"}, "so it is", "so\n\nit is"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. Write soon", "Bye. PS: write"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P. P.S", "P.S. again"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n - two\n** three", "* one\n• two"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "my answer is no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}, "**one** and *two* and *three*", "*one* and *two*"),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}, "Section 1\na\nSection 2\nb", "Section 1\na\nSection two"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1'),
    ("detectable_format:json_format", {}, "42", "Here: {}"),
    ("detectable_format:title", {}, "<<joy>>\ntext", "<< >> text"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("combination:two_responses", {}, "******one****** two******", "one ****** ****** two"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it: "}, " SAY IT: fine", '"Say it: fine'),
    ("startend:end_checker", {"end_phrase": " Any questions? "}, 'So it is. "ANY questions?"', "Any questions? No."),
    ("startend:quotation", {}, ' "yes" ', '"'),
    ("change_case:english_capital", {}, "THIS IS A VERY SIMPLE ENGLISH SENTENCE ABOUT THE WEATHER", "This is not"),
    ("change_case:english_lowercase", {}, "this is a very simple english sentence about the weather", "DAS ist nicht so"),
    ("punctuation:no_comma", {}, "no; none", "one, two"),
]
SENTENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. Smith came. He sat.", "Dr. Smith came late."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Dr. Smith came.", "He came. He sat."),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "A WELL-KNOWN fact", "the WELL-KNOWN fact"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "ONE fact", "TWO FACTS"),
]


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), CASES)
def test_a_rule_takes_one_response_and_not_the_other(instruction: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    padded = {**dict.fromkeys(["num_words", "keyword", "relation", "letter", "language"]), **arguments}
    assert follows(instruction, padded, good) and not follows(instruction, padded, bad)


@pytest.mark.assets
@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), SENTENCES)
def test_rules_on_sentences(asset: Callable[..., dict[str, Path]], instruction: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    asset("nltk-punkt")
    assert follows(instruction, arguments, good) and not follows(instruction, arguments, bad)


def test_all_25_instructions_have_a_case() -> None:
    assert {case[0] for case in CASES + SENTENCES} == set(GOOGLE_RULES) == set(SPEECH_RULES) and len(GOOGLE_RULES) == 25


SPEECH = [
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "1. one\n• two\n- three", "* one"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, r"* one\n* two", "2024 was one year\n* one\n* two"),  # a digit at the start is a bullet
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\ntwo", "one two"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n\n***\n\ntwo", "one\n \ntwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, "one ***", "one\ntwo"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "The answer is:"}, '"\'The answer is: 4"', "So the answer is: 4"),
    ("change_case:english_capital", {}, "XQZ", "Xqz"),  # no language is asked for
    ("change_case:english_lowercase", {}, "ich weiß nicht", "Ich"),
]


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), SPEECH)
def test_the_changes_of_speech_ifeval(instruction: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    assert follows(instruction, arguments, good, variant=Variant.speech_ifeval)
    assert not follows(instruction, arguments, bad, variant=Variant.speech_ifeval)


def test_the_variants_differ_in_what_speech_ifeval_changed_only() -> None:
    changed = {name for name in GOOGLE_RULES if GOOGLE_RULES[name] is not SPEECH_RULES[name]}
    assert changed == {case[0] for case in SPEECH}


@pytest.mark.parametrize("instruction", sorted(GOOGLE_RULES))
def test_blank_responses_follow_nothing(instruction: str) -> None:
    for variant in Variant:
        assert not follows(instruction, {}, " \n ", variant=variant) and not follows(instruction, {}, "", variant=variant, loose=True)


def test_loose_tries_eight_readings() -> None:
    response = 'Sure!\n"*quoted*"\nBye'
    assert loosened(response) == [
        response,
        '"*quoted*"\nBye',
        'Sure!\n"*quoted*"',
        '"*quoted*"',
        'Sure!\n"quoted"\nBye',
        '"quoted"\nBye',
        'Sure!\n"quoted"',
        '"quoted"',
    ]
    assert follows("startend:quotation", {}, response, loose=True) and not follows("startend:quotation", {}, response)


def test_a_letter_that_is_none_is_drawn_with_a_seed_or_counted_in_strict_mode() -> None:
    arguments = {"letter": "#", "let_frequency": 2, "let_relation": "at least"}
    drawn = random.Random(0).choice(string.ascii_letters).lower()
    assert follows("keywords:letter_frequency", arguments, drawn * 2) and not follows("keywords:letter_frequency", arguments, "##")
    assert follows("keywords:letter_frequency", arguments, "##", mode=Mode.strict)
    assert not follows("keywords:letter_frequency", arguments, drawn * 2, mode=Mode.strict)


def test_a_requirement_that_is_not_given_is_drawn_with_a_seed_or_not_followed_in_strict_mode() -> None:
    rng = random.Random(0)
    number, relation = rng.randint(100, 500), rng.choice(["less than", "at least"])
    for words in (99, number - 1, number, 501):
        expected = words < number if relation == "less than" else words >= number
        assert follows("length_constraints:number_words", {"num_words": -1}, "w " * words) == expected
        assert not follows("length_constraints:number_words", {}, "w " * words, mode=Mode.strict)
    with pytest.raises(ValueError, match="keywords"):
        follows("keywords:existence", {"keywords": []}, "text")
    assert not follows("keywords:existence", {"keywords": None}, "text", mode=Mode.strict)


def test_text_of_no_language_is_right_officially_and_wrong_in_strict_mode() -> None:
    french: dict[str, Any] = {"language": "fr"}
    assert follows("language:response_language", french, "12345") and not follows("language:response_language", french, "12345", mode=Mode.strict)


def test_the_language_of_a_doubtful_text_never_changes() -> None:
    assert len({language.is_language("NO PROBLEM AT ALL SENOR", "en", Mode.official) for _ in range(20)}) == 1


def test_wrong_instructions_are_named() -> None:
    with pytest.raises(ValueError, match="unknown instruction 'keywords:nothing'"):
        follows("keywords:nothing", {}, "x")
    with pytest.raises(ValueError, match="relation='about'"):
        follows("length_constraints:number_words", {"num_words": 3, "relation": "about"}, "x")
    assert instruction_problem("keywords:existence", {"keywords": None}) == "instruction 'keywords:existence' needs keywords, given: ['keywords']"
    assert instruction_problem("punctuation:no_comma", {"keywords": None}) is None


def test_a_missing_sentence_model_is_a_sentence_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"fetch_assets\.py fetch nltk-punkt"):
        punkt_path()


def test_a_missing_sentence_model_is_fetched_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def fetched(names: list[str]) -> None:
        asked.append(names)
        model = tmp_path / "tokenizers" / "punkt_tab" / "english" / "ortho_context.tab"
        model.parent.mkdir(parents=True)
        model.touch()

    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(tmp_path))
    monkeypatch.setattr("nemo_desta.evaluation.ifeval.text.fetch", fetched)
    assert ensure_punkt() == tmp_path == ensure_punkt() and asked == [["nltk-punkt"]]


line = st.text(alphabet="ab *-•1\\n.'\"", max_size=12)


@given(st.lists(line, max_size=6), st.integers(0, 6))
def test_loose_never_loses_what_strict_gives(lines: list[str], number: int) -> None:
    response = "\n".join(lines)
    for instruction, arguments in (
        ("detectable_format:number_bullet_lists", {"num_bullets": number}),
        ("length_constraints:number_paragraphs", {"num_paragraphs": number}),
        ("startend:quotation", {}),
    ):
        for variant in Variant:
            if follows(instruction, arguments, response, variant=variant):
                assert follows(instruction, arguments, response, variant=variant, loose=True)


@given(st.text(max_size=60), st.integers(1, 20))
def test_the_two_relations_exclude_each_other(response: str, number: int) -> None:
    def asked(relation: str) -> bool:
        return follows("length_constraints:number_words", {"num_words": number, "relation": relation}, response)

    assert asked("less than") != asked("at least") or not response.strip()


@given(st.lists(st.text(alphabet=string.ascii_letters, min_size=1, max_size=5), min_size=1, max_size=6))
def test_bullets_and_paragraphs_are_counted(items: list[str]) -> None:
    bullets = "\n".join(f"* {item}" for item in items)
    paragraphs = "\n***\n".join(items)
    for variant in Variant:
        assert follows("detectable_format:number_bullet_lists", {"num_bullets": len(items)}, bullets, variant=variant)
        assert follows("length_constraints:number_paragraphs", {"num_paragraphs": len(items)}, paragraphs, variant=variant)
        assert not follows("detectable_format:number_bullet_lists", {"num_bullets": len(items) + 1}, bullets, variant=variant)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3))
def test_keywords_of_any_kind_never_crash(response: str, keywords: list[str]) -> None:
    follows("keywords:existence", {"keywords": keywords}, response)
    assert not follows("keywords:forbidden_words", {"forbidden_words": ["zebra"]}, f"{response} zebra")
