"""A small study runs through, has the same rows in every arm, and does nothing twice."""

import dataclasses
import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, LlamaForCausalLM

from nemo_desta.assets import AssetError
from nemo_desta.config import DataConfig, DestaConfig, EvalConfig, GenerationConfig, LoraConfig, OptimConfig, Overlong, TrainerConfig
from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.data.conversation import AudioLayout
from nemo_desta.data.dataset import DestaDataset
from nemo_desta.data.supervision import self_generated
from nemo_desta.study import run
from nemo_desta.study.arms import Paths, arm_config, arms
from nemo_desta.study.config import StudyConfig, TargetSetConfig, Writer, check_study
from nemo_desta.study.language import Instruction, answer_perplexity, instruction_following, load_instructions, ready_rules, untouched
from nemo_desta.study.ready import ready
from nemo_desta.study.report import table
from nemo_desta.study.run import run_study
from nemo_desta.study.targets import common_rows, trainable
from tests.evaluation.toys import make_cuts
from tests.tiny import PLACEHOLDER, read_json, tiny_model_config, tiny_targets, tiny_tokenizer

pytestmark = pytest.mark.timeout(900)
SETS = {"self": TargetSetConfig(about="own"), "other": TargetSetConfig(), "template": TargetSetConfig(writer=Writer.template)}


def config(root: Path) -> StudyConfig:
    """Two tiny random LLMs and templates; random answers pass no filter, so they are all kept."""
    model = dataclasses.replace(tiny_model_config(root / "parts", dropout=0.0), lora=LoraConfig(rank=2))
    other = root / "other"
    if not other.exists():
        tiny_model_config(other)
        llm = LlamaForCausalLM.from_pretrained(other / "llm")
        torch.manual_seed(3)
        torch.nn.init.normal_(llm.model.layers[0].mlp.down_proj.weight)
        llm.save_pretrained(other / "llm")
    base = DestaConfig(
        name="toy",
        run_dir="unused",
        model=model,
        generation=GenerationConfig(rows=24, temperature=0.0, max_new_tokens=5, batch_tokens=3000, drop_rejected=False, attribute_prompt_fraction=1.0),
        data=DataConfig(batch_rows=4, micro_batch_tokens=1200, num_buckets=1, num_workers=0, max_tokens=600),
        optim=OptimConfig(lr=3e-2, warmup_steps=0),
        trainer=TrainerConfig(max_steps=2, accelerator="cpu", checkpoint_every_steps=2, log_every_steps=1, tensorboard=False),
        eval=EvalConfig(max_items_per_attribute=2, max_new_tokens=3, batch_rows=8, bootstrap=10, retention_prompts=2),
    )
    targets = dict(SETS) | {"other": TargetSetConfig(llm=str(other / "llm"))}
    return StudyConfig(name="toy", run_dir=str(root / "study"), base=base, targets=targets, rows=16, perplexity_rows=8, instructions=2)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, dict]:
    """A finished study whose corpus was there."""
    root = tmp_path_factory.mktemp("study")
    cfg = config(root)
    cuts = make_cuts(root / "audio", per_domain=6)
    for split in ("train", "test"):
        path = Path(cfg.run_dir) / "corpus" / f"cuts_{split}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cuts(path, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ensure_mixture", lambda *arguments: False)
        return cfg, run_study(cfg)


def test_every_arm_has_the_same_rows_and_steps(done: tuple[StudyConfig, dict]) -> None:
    cfg, results = done
    paths = Paths(Path(cfg.run_dir))
    rows = {name: {row.id: row for cut in read_cuts(paths.targets(name)) for row in self_generated(cut)} for name in cfg.targets}
    assert len(rows["self"]) == results["rows"]["rows"] == 16 and rows["self"].keys() == rows["other"].keys() == rows["template"].keys()
    assert all(rows["self"][i].custom["messages"] == rows["template"][i].custom["messages"] for i in rows["self"])
    assert any(rows["self"][i].text != rows["other"][i].text for i in rows["self"])
    assert list(results["arms"]) == ["self", "other", "template", "self_lora", "other_lora", "template_lora"]
    assert {(arm["steps"], arm["seed"]) for arm in results["arms"].values()} == {(2, cfg.base.seed)}


def test_the_axes_are_measured(done: tuple[StudyConfig, dict]) -> None:
    cfg, results = done
    plain = results["untouched"]
    for name, arm in results["arms"].items():
        assert set(arm["accuracy"]) == {"with_audio", "shuffled", "majority"} and set(arm["attributes"]) == {"domain", "genre"}
        assert arm["accuracy"]["with_audio"] == sum(row["with_audio"] for row in arm["attributes"].values()) / 2
        frozen = not name.endswith("_lora")
        assert (arm["retention"]["different"] == 0) >= frozen and (arm["answer_perplexity"] == plain["answer_perplexity"]) == frozen, name
        assert arm["instructions"]["instructions"] == 2
    assert results["arms"]["self"]["target_perplexity"] > 1 and results["perplexity"]["paired"].keys() == {"other", "template"}
    folder = Path(cfg.run_dir) / "report"
    assert "| template_lora |" in (folder / "study.md").read_text() and "<svg" in (folder / "study.svg").read_text()
    assert len(read_json(folder / "study.json")["manifest"]["inputs"]["checkpoint_self"]["sha256"]) == 64
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(table(results))
    assert table(results).row_count == 7 and "…" not in narrow.export_text()


def test_a_finished_study_asks_and_trains_nothing(done: tuple[StudyConfig, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, results = done
    monkeypatch.setattr(run, "ensure_mixture", lambda *arguments: False)
    for name in ("Scorer", "untouched"):
        monkeypatch.setattr(run, name, lambda *arguments, **settings: pytest.fail("a model was loaded"))
    monkeypatch.setattr(run.DestaModel, "from_pretrained", lambda *arguments, **settings: pytest.fail("a model was loaded"))
    monkeypatch.setattr("nemo_desta.models.training._module_and_data", lambda *arguments: pytest.fail("an arm was trained"))
    monkeypatch.setattr("nemo_desta.generation.runner.make_engine", lambda *arguments: pytest.fail("targets were written"))
    assert run_study(cfg)["arms"] == results["arms"]


def test_an_arm_is_the_recipe_with_other_targets_and_lora(tmp_path: Path) -> None:
    cfg, paths = config(tmp_path), Paths(tmp_path / "study")
    configs = [arm_config(cfg, arm, paths) for arm in arms(cfg)]
    for found in configs:
        model = dataclasses.replace(found.model, lora=cfg.base.model.lora)
        data = dataclasses.replace(found.data, manifest=None)
        assert dataclasses.replace(found, name="toy", run_dir="unused", model=model, data=data) == cfg.base
    assert [c.model.lora.enabled for c in configs] == [False] * 3 + [True] * 3


def test_the_rows_of_the_arms_are_those_that_training_uses(tmp_path: Path) -> None:
    cuts, tokenizer, layout = tiny_targets(tmp_path, clips=3), tiny_tokenizer(), AudioLayout(PLACEHOLDER, 3)
    for i, cut in enumerate(cuts):
        cut.supervisions[1].text = "A long tone. " * 40 * (i + 1)
        cut.supervisions[2].custom["messages"][-1]["content"] += " again" * 200 * i
    found = {}
    for overlong in Overlong:
        data = DataConfig(max_tokens=200, overlong=overlong)
        found[overlong] = trainable(cuts, tokenizer, layout, data)
        assert found[overlong] == set(DestaDataset(tokenizer, layout, micro_batch_tokens=1000, max_tokens=200, overlong=overlong)[cuts].row_ids)
    assert found[Overlong.skip] == {"row-0-1"} and found[Overlong.cut] == {"row-0-0", "row-1-0", "row-2-0", "row-0-1"}


def test_mistakes_are_named(tmp_path: Path) -> None:
    cfg = config(tmp_path)

    def refused(**changes: object) -> str:
        with pytest.raises(ValueError) as caught:
            check_study(dataclasses.replace(cfg, **changes))
        return str(caught.value)

    assert "no set has writer=llm" in refused(targets={"template": SETS["template"]})
    assert "targets.t.voice='loud'" in refused(targets=SETS | {"t": TargetSetConfig(writer=Writer.template, voice="loud")})
    assert "targets.My Set" in refused(targets={"My Set": TargetSetConfig()}) and "targets.a_lora" in refused(targets={"a_lora": TargetSetConfig()})
    assert "lora=[]" in refused(lora=[]) and "targets.t.llm='x'" in refused(targets=SETS | {"t": TargetSetConfig(writer=Writer.template, llm="x")})
    with pytest.raises(ValueError, match=r"no row in common \(a 1, b 1\)"):
        common_rows({"a": {"x"}, "b": {"y"}}, 0)
    with pytest.raises(ValueError, match="instructions=999"):
        load_instructions(999)


def test_what_the_rules_need_is_fetched_before_the_first_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence counter that cannot be had is found out at once, not after an arm of training; without such a rule nothing is fetched."""
    asked: list[list[str]] = []

    def no_network(names: list[str]) -> None:
        asked.append(names)
        raise AssetError("nothing can be fetched here")

    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(tmp_path))
    monkeypatch.setattr("nemo_desta.evaluation.ifeval.text.fetch", no_network)
    ready_rules(load_instructions(4))
    assert not asked
    cfg = dataclasses.replace(config(tmp_path), instructions=16)
    with pytest.raises(AssetError):
        run_study(cfg)
    assert asked == [["nltk-punkt"]] and not Path(cfg.run_dir).exists()


def test_what_later_stages_lack_is_said_before_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters without peft, a second writer that is not there or has no chat template, settings of the target generation."""
    cfg = config(tmp_path)
    monkeypatch.setattr(run, "ensure_mixture", lambda *arguments: pytest.fail("a stage was begun"))

    def refused(cfg: StudyConfig) -> str:
        with pytest.raises((ValueError, OSError)) as caught:
            run_study(cfg)
        assert not Path(cfg.run_dir).exists()
        return str(caught.value)

    def written_by(llm: Path | str) -> StudyConfig:
        return dataclasses.replace(cfg, targets=SETS | {"other": TargetSetConfig(llm=str(llm))})

    assert "targets.other cannot be written by" in (said := refused(written_by(tmp_path / "nowhere"))) and "nor an existing directory" in said
    (tmp_path / "empty").mkdir()
    assert "targets.other cannot be written by" in refused(written_by(tmp_path / "empty"))
    silent = tmp_path / "silent"
    shutil.copytree(tmp_path / "other" / "llm", silent)
    tokenizer = AutoTokenizer.from_pretrained(silent)
    tokenizer.chat_template = None
    (silent / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(silent)
    assert "silent has no chat template" in (said := refused(written_by(silent))) and "or name another LLM by targets.other.llm" in said
    generation = dataclasses.replace(cfg.base.generation, multi_turn_fraction=30.0)
    assert "multi_turn_fraction=30.0 is outside" in refused(dataclasses.replace(cfg, base=dataclasses.replace(cfg.base, generation=generation)))

    monkeypatch.setitem(sys.modules, "peft", None)
    said = refused(cfg)
    assert "the arm self_lora trains LoRA adapters, which needs the peft package: pip install -e '.[lora]', or set lora=[false]" in said
    monkeypatch.setattr(run, "_run", lambda cfg, paths: {})
    assert run_study(dataclasses.replace(cfg, lora=[False])) == {}


def test_a_finished_study_needs_neither_its_writers_nor_peft(done: tuple[StudyConfig, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, _ = done
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("nemo_desta.study.ready.load_chat_tokenizer", lambda model: pytest.fail("a writer was looked for"))
    monkeypatch.setattr("nemo_desta.study.ready.ready_rules", lambda instructions: pytest.fail("a sentence model was looked for"))
    ready(cfg, Paths(Path(cfg.run_dir)))


def test_instructions_are_checked_by_their_rules(tmp_path: Path) -> None:
    model = untouched(tiny_model_config(tmp_path))

    class Fixed(type(model)):
        def generate(self, messages, **settings):
            return [type("Output", (), {"text": text})() for text in ("no commas here", "one, two")][: len(messages)]

    model.__class__ = Fixed
    rule = "punctuation:no_comma"
    found = instruction_following(model, [Instruction("a", rule), Instruction("b", rule)])
    assert (found["followed"], found["rate"], [row["followed"] for row in found["rows"]]) == (1, 0.5, [True, False])
    assert instruction_following(model, [])["rate"] is None and answer_perplexity(model, []) is None
    likely = answer_perplexity(model, [{"prompt": "Say a.", "before": "a"}])
    assert likely is not None and likely > 1
