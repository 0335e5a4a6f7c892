"""`tools/plan.py`: bytes by layout, and the one to take."""

import re
import sys
from dataclasses import replace

import pytest

from nemo_desta.parallel.memory import Memory, Shapes, Workload, estimate
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.shapes import PUBLISHED
from tests.test_config import CONF, load
from tools.plan import Choice, choices, main, recommend

GIB = 2**30


def test_the_papers_model_fits_one_gpu_of_eighty_and_must_be_cut_for_small_ones():
    found = choices(load("desta25"), gpus=8)
    large, small = recommend(found, 80), recommend(found, 16)
    assert large is not None and small is not None and recommend(found, 1) is None
    assert large.sizes.model == 1 and not large.sharded  # eight copies: nothing is faster than not to cut
    assert small.sizes.model > 1 and small.need.total <= 0.9 * 16 * GIB


def said(recipe: str, pattern: str) -> tuple[str, ...]:
    """What the comment at the head of a recipe says of its GPU."""
    found = re.search(pattern, (CONF / f"{recipe}.yaml").read_text())
    assert found is not None, f"conf/{recipe}.yaml no longer says {pattern}"
    return found.groups()


def test_the_papers_recipe_says_which_single_gpu_it_needs():
    found = choices(load("desta25"), gpus=1)
    plain, small, keys, *gib = said("desta25", r"One GPU of (\d+) GB as it stands, one of (\d+) GB with (.+) \((\d+) and (\d+) GiB,")
    as_it_stands, saving = recommend(found, float(plain)), recommend(found, float(small))
    assert as_it_stands is not None and as_it_stands.name == "parallel.tp=1 parallel.pp=1"  # what the recipe says already
    assert saving is not None and saving.name == f"{as_it_stands.name} {keys}"
    assert [round(choice.need.total / GIB) for choice in (as_it_stands, saving)] == [int(number) for number in gib]


def test_the_study_says_which_gpu_an_arm_needs():
    gpu, plain, adapted = map(int, said("study", r"One GPU of (\d+) GB an arm \((\d+) GiB, (\d+) GiB with LoRA,"))
    needs = [recommend(choices(load("desta25", f"model.lora.enabled={on}"), gpus=1), gpu) for on in ("false", "true")]
    assert [(need.recompute, round(need.need.total / GIB)) for need in needs if need is not None] == [(False, plain), (False, adapted)]


def test_bytes_by_hand():
    cfg = load("desta25")
    shapes = Shapes(PUBLISHED[cfg.model.llm], PUBLISHED[cfg.model.encoder], cfg.model.connector)
    load_of = Workload(tokens=4096, clips=12)
    alone = estimate(shapes, ParallelSizes(), 0, load_of)
    assert abs(alone.weights - (8.03e9 * 2 + 0.637e9 * 4)) < 0.02e9  # bf16 LLM, fp32 encoder
    assert alone.trained == 131_540_224 * 16  # value, gradient, two moments
    again = estimate(shapes, ParallelSizes(), 0, load_of, recompute=True)
    assert again.activations < 0.5 * alone.activations and again.weights == alone.weights
    last = estimate(shapes, ParallelSizes(tp=2, pp=2), 1, load_of)
    assert last.trained == 0 and last.weights < 0.3 * alone.weights


def test_an_encoder_in_bf16_takes_half_the_bytes():
    plain, half, auto = (choices(load("desta25", f"model.encoder_precision={name}"), gpus=8) for name in ("fp32", "bf16", "auto"))
    assert abs(plain[0].need.weights - half[0].need.weights - 0.637e9 * 2) < 0.02e9 and half[0].need.trained == plain[0].need.trained
    assert [choice.need for choice in auto] == [choice.need for choice in half]
    assert plain[-1].need.weights - half[-1].need.weights == plain[0].need.weights - half[0].need.weights  # in shards too


def test_adapters_are_trained_on_every_stage_and_keep_their_inputs():
    plain, adapted = (choices(load("desta25", f"model.lora.enabled={on}"), gpus=8) for on in ("false", "true"))
    widths = {"q": 4096 + 4096, "k": 4096 + 1024, "v": 4096 + 1024}  # A and B
    assert adapted[0].need.trained - plain[0].need.trained == 32 * 16 * sum(widths.values()) * 16
    assert all(a.need.activations > p.need.activations and a.need.weights == p.need.weights for a, p in zip(adapted, plain, strict=True))


def test_weights_in_shards_are_a_row_of_their_own():
    *cut, sharded = choices(load("desta25"), gpus=8)
    assert sharded.sharded and not any(choice.sharded for choice in cut) and sharded.name == "parallel=fsdp2"
    assert sharded.need.trained == cut[0].need.trained and sharded.need.activations == cut[0].need.activations
    assert 2 * 8.03e9 / 8 + 2 * 1.05e9 < sharded.need.weights - 0.637e9 * 4 < 2 * 8.03e9 / 8 + 2 * 1.05e9 + 1e9  # its shards, two tables, two layers
    assert choices(load("desta25"), gpus=1)[-1].sharded is False
    between = (cut[0].need.total + sharded.need.total) / 2 / 0.9 / GIB
    assert recommend([*cut, sharded], between) is sharded


def test_what_is_recommended_can_be_given_as_it_stands():
    alone = Choice(ParallelSizes(), True, Memory(1, 1, 1))
    assert alone.name == "parallel.tp=1 parallel.pp=1 parallel.backbone=megatron parallel.recompute=true"
    assert replace(alone, recompute=False, sizes=ParallelSizes(2, 2, sequence_parallel=True)).name == (
        "parallel.tp=2 parallel.pp=2 parallel.sequence_parallel=true"
    )


def test_numbers_that_are_no_powers_of_two_are_cut_too():
    sizes = {(choice.sizes.tp, choice.sizes.pp) for choice in choices(load("desta25_mini"), gpus=6)}
    assert (3, 1) in sizes and (1, 6) in sizes and (2, 3) in sizes and (4, 1) not in sizes  # 3 key/value heads


@pytest.mark.parametrize("words", [["gpus=0"], ["gpus=some"], ["nonsense.key=1"], ["model.llm=/nowhere"]], ids=str)
def test_what_makes_no_sense_is_a_sentence(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--config-name=desta25", *words])
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words[0].split("=")[-1].split("/")[-1] in said and said.count("\n") == 1
