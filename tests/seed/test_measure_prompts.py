"""The measure behind weak_for_small.yaml: every wording about every value, judged by the rule that filters targets."""

from collections.abc import Sequence

import pytest

from nemo_desta.generation.engines.base import STOP, Completion
from nemo_desta.seed.prompts import load_pool
from tests.generation.clips import clip
from tests.tiny import tiny_tokenizer
from tools.measure_prompts import main, measure, values_of


class Biased:
    """Says major, whatever the description says, where a question names both modes."""

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer()
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        self.asked += prompts
        return [Completion("It is major." if "major or minor" in p or "is major" in p else "It is minor.", STOP, 4) for p in prompts]


def test_a_wording_with_one_answer_for_all_values_is_weak() -> None:
    cuts = [clip(f"m{i}", "music", mode=mode) for i, mode in enumerate(["major", "minor", "major"])]
    values = values_of(cuts, ["mode"], 6)
    engine = Biased()
    measured = measure(engine, values, "Listen.")
    wordings = [p for p in load_pool() if p.attribute == "mode" and p.clips == 1]
    assert len(measured) == len(wordings) and len(engine.asked) == 2 * len(wordings) and all("Listen." in prompt for prompt in engine.asked)
    for found in measured:
        assert found.is_weak(0.6) == ("major or minor" in found.prompt.text) and found.share == (0.5 if found.is_weak(0.6) else 1.0)
    assert measured[0].entry().startswith(f"- {measured[0].prompt.id}  # 1/2 ")


def test_values_are_those_of_the_cuts_and_a_missing_attribute_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    cuts = [clip(f"m{i}", "music", playing=name) for i, name in enumerate(["scale", "chords", "melody"])]
    assert set(values_of(cuts, ["playing"], 6)["playing"]) == {"scale", "chords", "melody"} and len(values_of(cuts, ["playing"], 2)["playing"]) == 2
    with pytest.raises(ValueError, match="no cut has mode"):
        values_of(cuts, ["playing", "mode"], 6)
    assert main(["--llm", "none", "--cuts", "absent.jsonl", "--attributes", "mode"]) == 1 and "absent.jsonl" in capsys.readouterr().err
