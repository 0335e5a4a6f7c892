import dataclasses
import gzip
import re
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from lhotse import CutSet

from nemo_desta.config import DestaConfig, EvalConfig, TrainerConfig
from nemo_desta.evaluation.pipeline import evaluate_run, find_checkpoint
from nemo_desta.models import DestaModel
from tests.test_config import load
from tests.tiny import tiny_model_config

ROOT = Path(__file__).resolve().parents[2]


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


def test_lost_lines_are_counted_and_a_damaged_manifest_is_refused(tmp_path, run):
    root = tmp_path / "run"
    shutil.copytree(Path(run.run_dir) / "corpus", root / "corpus")
    again = dataclasses.replace(run, run_dir=str(root), eval=dataclasses.replace(run.eval, checkpoint=str(find_checkpoint(run)), retention_prompts=0))
    path = root / "corpus" / "cuts_test.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"no cut\n"))
    results = evaluate_run(again, progress=False)
    counts = results["left_out"]["manifest_problems"]
    assert counts.keys() == {"cuts_test"} and counts["cuts_test"]["lost_lines"] == 1 and counts["cuts_test"]["unknown_fields"] == 0
    assert results["manifest"]["manifest_problems"] == counts
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cuts_test\.jsonl\.gz is cut off or damaged"):
        evaluate_run(again, progress=False)


def test_a_checkpoint_that_is_not_there_is_told_with_the_quotes_hydra_needs(run):
    lost = dataclasses.replace(run, eval=dataclasses.replace(run.eval, checkpoint="nowhere/step=600.ckpt"))
    with pytest.raises(ValueError, match=r"""no checkpoint in 'nowhere/step=600\.ckpt'.*'eval\.checkpoint="<directory>"'"""):
        find_checkpoint(lost)


def test_the_documented_quotes_reach_the_configuration():
    text = (Path(__file__).parents[2] / "docs" / "heldout.md").read_text()
    override = re.search(r"'(eval\.checkpoint=[^']+)'", text).group(1)  # what the shell leaves of it
    parser = OverridesParser.create()
    assert parser.parse_override(override).value() == "runs/mini/train/checkpoints/step=650.ckpt"
    with pytest.raises(HydraException):
        parser.parse_override(override.replace('"', ""))


def test_the_documented_checkpoints_are_left_by_an_uninterrupted_run():
    trainer = load("desta25_mini").trainer
    assert trainer.keep_checkpoints >= 2 and trainer.max_steps % trainer.checkpoint_every_steps == 0
    left = {f"step={step}.ckpt" for step in (trainer.max_steps - trainer.checkpoint_every_steps, trainer.max_steps)}
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    named = {name for file in files for name in re.findall(r"runs/mini/train/checkpoints/(\w[^\s\"'`]*)", file.read_text())}
    assert named and named <= left


def test_a_run_without_checkpoint_or_corpus_is_an_error(tmp_path, run):
    empty = DestaConfig(name="toy", run_dir=str(tmp_path), model=run.model, trainer=run.trainer)
    with pytest.raises(ValueError, match=r"train_desta\.py"):
        find_checkpoint(empty)
    empty.eval.checkpoint = str(find_checkpoint(run))
    with pytest.raises(ValueError, match=r"prepare_corpus\.py"):
        evaluate_run(empty, progress=False)
