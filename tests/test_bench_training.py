"""The benchmark compares like with like: the plain way and this project's have the same loss and gradient where both pad to 30 s."""

import os
from pathlib import Path

import pytest
import torch

from nemo_desta.config import PadTo
from nemo_desta.parallel.topology import stop
from tools.bench_training import PRESETS, build, packed_step, plain_step, rows_of, step_of, step_of_reference
from tools.reference_training import load_code


@pytest.fixture(scope="module", autouse=True)
def groups():
    yield
    stop()


def test_all_variants_train_the_same():
    preset, results = PRESETS["tiny"], {}
    for variant in ("plain", "hf-30s", "megatron"):
        model, steps, vocabulary = build(preset, variant, torch.device("cpu"))
        model.perception.encoder.pad_to = PadTo.thirty_seconds
        rows = rows_of(preset, vocabulary)
        loss = plain_step(model, rows) if variant == "plain" else packed_step(model, steps, rows)
        results[variant] = loss, torch.cat([p.grad.flatten() for p in model.trainable_parameters()])
    loss, gradient = results["plain"]
    for variant in ("hf-30s", "megatron"):
        assert results[variant][0] == pytest.approx(loss, rel=1e-5), variant
        assert (results[variant][1] - gradient).norm() < 1e-4 * gradient.norm(), variant


@pytest.mark.assets
def test_rows_of_the_mini_recipe_begin_alike(asset):
    asset("smollm2-135m-instruct")
    preset = PRESETS["mini"]
    rows = [row.rendered for row in rows_of(preset, 49152)]
    beginnings = {tuple(row.input_ids[: row.audio_spans[0][0]]) for row in rows}
    assert len(rows) == preset.rows and len(beginnings) == 1 and len(next(iter(beginnings))) > 20
    assert len({tuple(row.input_ids[sum(row.audio_spans[0]) : row.label_start]) for row in rows}) == preset.rows, "every row asks something else"


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"modeling_desta25\.py; give a clone of"):
        load_code(tmp_path)


@pytest.mark.skipif("DESTA_CHECKOUT" not in os.environ, reason="set DESTA_CHECKOUT to a clone of the reference repository")
def test_the_references_own_code_trains_the_same():
    preset = PRESETS["tiny"]
    results = []
    for variant in ("plain", "reference"):
        model, steps, vocabulary = build(preset, variant, torch.device("cpu"))
        rows = rows_of(preset, vocabulary)
        checkout = Path(os.environ["DESTA_CHECKOUT"])
        step, trained = step_of(model, steps, variant, rows) if variant == "plain" else step_of_reference(checkout, model, preset, rows)
        results.append((step(), float(torch.stack([p.grad.norm() for p in trained]).norm())))
    assert results[1] == pytest.approx(results[0], rel=1e-4)
