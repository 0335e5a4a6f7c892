from pathlib import Path

import pytest
from lhotse import CutSet

from nemo_desta.config import DestaConfig, EvalConfig, TrainerConfig
from nemo_desta.evaluation.pipeline import evaluate_run, find_checkpoint
from nemo_desta.models import DestaModel
from tests.tiny import tiny_model_config


@pytest.fixture(scope="module")
def run(tmp_path_factory, cuts):
    """A corpus and a trained (here: random) tiny model, as the earlier stages leave them."""
    root = tmp_path_factory.mktemp("run")
    model = tiny_model_config(root / "parts")
    checkpoint = root / "train" / "checkpoints" / "desta-step=3"
    DestaModel.from_config(model).save_pretrained(checkpoint)
    (root / "corpus").mkdir()
    for split in ("train", "test"):
        CutSet.from_cuts(cuts).to_file(root / "corpus" / f"cuts_{split}.jsonl.gz")
    settings = EvalConfig(max_items_per_attribute=4, max_new_tokens=4, batch_rows=6, bootstrap=20, retention_prompts=2)
    return DestaConfig(name="toy", run_dir=str(root), model=model, eval=settings, trainer=TrainerConfig(max_steps=3))


def test_a_real_model_is_evaluated_and_a_second_run_asks_nothing(run):
    results = evaluate_run(run, progress=False)
    assert results["retention"] == {"identical": True, "prompts": 2, "different": 0}
    assert results["manifest"]["checkpoint"] == "desta-step=3"
    assert len(results["manifest"]["inputs"]["checkpoint_weights"]["sha256"]) == 64
    for row in results["attributes"].values():
        assert row["with_audio"]["n"] == 4 and row["majority"] <= 0.5
    assert (Path(run.run_dir) / "report" / "report.html").is_file()

    def unused(_: Path):
        raise AssertionError("the model must not be loaded")

    again = evaluate_run(run, load_model=unused, progress=False)
    assert again["attributes"] == results["attributes"] and again["retention"] == results["retention"]


def test_a_run_without_checkpoint_or_corpus_is_an_error(tmp_path, run):
    empty = DestaConfig(name="toy", run_dir=str(tmp_path), model=run.model, trainer=run.trainer)
    with pytest.raises(ValueError, match=r"train_desta\.py"):
        find_checkpoint(empty)
    empty.eval.checkpoint = str(find_checkpoint(run))
    with pytest.raises(ValueError, match=r"prepare_corpus\.py"):
        evaluate_run(empty, progress=False)
