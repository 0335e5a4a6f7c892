"""`tools/check_parallel.py`: what the two ways of comparing can and cannot hide."""

from dataclasses import replace

import pytest
import torch

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.models.steps import DataParallelSteps
from tools.check_parallel import Problem, Row, build, problems_of, reference, train


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    return problems_of("tiny", quick=True, folder=tmp_path_factory.mktemp("check"))["llama"]


def test_held_steps_begin_at_the_references_weights_whatever_the_updates_were(problem: Problem) -> None:
    wanted = reference(problem)
    results = {}
    for name, held in (("held", wanted.weights), ("free", None)):
        model = build(HFBackbone.from_pretrained(problem.folder, dtype=torch.float32), problem)
        results[name] = train(model, DataParallelSteps(), replace(problem, lr=0.1), 0, 1, held=held)  # other updates than the reference's
    assert results["held"].losses == wanted.losses and results["free"].losses != wanted.losses
    assert all(torch.equal(one, other) for one, other in zip(results["held"].gradients, wanted.gradients, strict=True))


@pytest.mark.parametrize(("free", "held", "agrees"), [((1e-6, 5e-5), (1e-6, 5e-5), True), ((1e-6, 2e-4), (0.0, 0.0), False), ((0.0, 0.0), (2e-5, 0.0), False)])
def test_a_difference_in_either_way_counts(free, held, agrees) -> None:
    row = Row("llama", "TP2", free, held, [free[1]], 1.0)
    assert row.agrees == agrees and ("DIFFERS" in str(row)) != agrees
