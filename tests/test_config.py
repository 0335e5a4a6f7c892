"""Every shipped YAML is a whole, typed configuration, and its model can be built (on meta tensors, so without any weights; contract C7)."""

import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from torch import nn
from transformers import LlamaConfig, WhisperConfig

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.checkpoint import trainable_state
from nemo_desta.config import DestaConfig, Overlong, typed
from nemo_desta.evaluation.config import typed_as
from nemo_desta.export.settings import ExportConfig
from nemo_desta.modules.perception import Perception
from nemo_desta.modules.qformer import QFormerConnector
from nemo_desta.modules.whisper import WhisperTaps
from nemo_desta.parallel.plan import ParallelSizes, plan_heads, split_layers
from nemo_desta.parallel.shapes import PUBLISHED
from nemo_desta.serving.settings import ServeConfig
from nemo_desta.study.config import StudyConfig, TargetSetConfig, check_study

CONF = Path(__file__).resolve().parents[1] / "conf"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if not path.stem.startswith(("eval", "export", "serve", "study")))  # those have schemas of their own
SMOLLM = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True
)
BASE = WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, num_mel_bins=80, vocab_size=51865)
SIZES = PUBLISHED | {"asset://smollm2-135m-instruct": SMOLLM, "asset://whisper-base": BASE}


class Canary1Bv2(nn.Module):
    """The sizes of NVIDIA's Canary-1B-v2 (32 FastConformer layers of 1024); `tests/modules/test_canary.py` runs a real one, small."""

    dim, num_heads, num_taps = 1024, 8, 4


def load(name: str, *overrides: str) -> DestaConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return typed(compose(name, overrides=list(overrides)))


def parts(cfg: DestaConfig) -> tuple[Perception, HFBackbone]:
    """Encoder, connector and backbone of a configuration, on meta tensors."""
    with torch.device("meta"):
        if "canary" in cfg.model.encoder:
            encoder = Canary1Bv2()
        else:
            encoder = WhisperTaps.from_config(SIZES[cfg.model.encoder], taps=cfg.model.connector.taps, pad_to=cfg.model.pad_to)
        backbone = HFBackbone.from_config(SIZES[cfg.model.llm])
        sizes = {"encoder_dim": encoder.dim, "num_taps": encoder.num_taps, "num_heads": encoder.num_heads}
        connector = QFormerConnector.from_config(cfg.model.connector, llm_dim=backbone.hidden_size, **sizes)
        return Perception(encoder, connector), backbone


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_complete_and_its_model_fits_together(name):
    cfg = load(name)
    assert cfg.name == name
    try:
        OmegaConf.to_container(OmegaConf.structured(cfg), throw_on_missing=True)
    except MissingMandatoryValue as error:
        pytest.fail(f"{name}: {error}")
    perception, backbone = parts(cfg)
    taps = torch.empty(perception.encoder.num_taps, 2, 50, perception.encoder.dim, device="meta")
    assert perception.connect(taps).shape == (2, cfg.model.connector.num_queries, backbone.hidden_size)


def test_the_papers_model_has_the_published_tensors():
    perception, backbone = parts(load("desta25"))
    model = torch.nn.Module()
    model.perception, model.backbone = perception, backbone
    state = trainable_state(model)
    assert len(state) == 165
    assert sum(tensor.numel() for tensor in state.values()) == 131_540_224
    assert state["perception.connector.proj.1.weight"].shape == (4096, 1280)
    assert state["perception.connector.qformer.layer.5.intermediate.dense.weight"].shape == (3072, 1280)


def test_the_small_recipe_is_the_papers_with_other_values():
    """It inherits from the paper's YAML and each of its own keys changes something: no key is there for show."""
    mini = OmegaConf.load(CONF / "desta25_mini.yaml")
    assert "desta25" in mini.pop("defaults")
    paper = OmegaConf.to_container(OmegaConf.structured(load("desta25")), enum_to_str=True)

    def leaves(tree, prefix=()):
        return [
            leaf for k, v in tree.items() for leaf in (leaves(v, (*prefix, k)) if isinstance(v, dict) and k != "attribute_weights" else [((*prefix, k), v)])
        ]

    for path, value in leaves(OmegaConf.to_container(mini)):
        before = paper
        for key in path:
            assert key in before, path
            before = before[key]
        assert before != value, f"{'.'.join(path)} repeats the paper's value"


@pytest.mark.parametrize("path", sorted((CONF / "parallel").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_layout_goes_with_the_recipes_of_eight_billion_and_with_the_small_one(path):
    for name in ("desta25", "desta25_qwen", "desta25_mini"):
        cfg = load(name, f"parallel={path.stem}")
        sizes = ParallelSizes(cfg.parallel.tp, cfg.parallel.pp, cfg.parallel.virtual_pp, cfg.parallel.sequence_parallel)
        llm = SIZES[cfg.model.llm]
        assert plan_heads(llm, sizes.tp).padded_groups % sizes.tp == 0
        assert len(split_layers(llm.num_hidden_layers, sizes.pp, sizes.virtual_pp)) == sizes.pp * sizes.virtual_pp
    assert path.stem in ("single", "fsdp2") or sizes.model > 1


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("study*.yaml")))
def test_every_study_is_a_recipe_of_ours_with_sets_of_targets(name):
    with initialize_config_dir(str(CONF), version_base=None):
        study = typed_as(StudyConfig, compose(name))
    check_study(study)
    assert study.name == name and "self" in study.targets and "template" in study.targets and study.lora == [False, True]
    assert study.base.model == load("desta25" if name == "study" else "desta25_mini").model


def test_the_papers_optimiser_and_schedule():
    cfg = load("desta25")
    o = cfg.optim
    assert (o.lr, list(o.betas), o.weight_decay, o.warmup_steps, o.min_lr, o.grad_clip) == (1e-4, [0.9, 0.98], 0.01, 5000, 0.0, 1.0)
    assert (cfg.data.batch_rows, cfg.data.max_transcript_tokens, cfg.generation.temperature, cfg.generation.top_p) == (96, 100, 0.05, 1.0)
    assert (cfg.data.max_tokens, cfg.data.overlong) == (1024, Overlong.skip) and load("desta25", "data.overlong=cut").data.overlong is Overlong.cut


@pytest.mark.parametrize("override", ["+optim.learning_rate=1", "optim.lr=fast", "model.pad_to=forever", "trainer.max_steps=1.5"])
def test_unknown_and_ill_typed_keys_are_errors_that_name_the_key(override):
    key = override.lstrip("+").split("=")[0].rsplit(".", 1)[1]
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        load("desta25_mini", override)
    assert key in str(caught.value) or key in str(caught.value.__cause__)


@pytest.mark.parametrize("root", [DestaConfig, ExportConfig, ServeConfig, StudyConfig, TargetSetConfig])
def test_every_key_says_what_it_means(root):
    undocumented = []
    for cls in _dataclasses(root):
        lines = {line.split(":")[0].strip(): line for line in inspect.getsource(cls).splitlines() if ":" in line}
        undocumented += [f"{cls.__name__}.{f.name}" for f in fields(cls) if not is_dataclass(f.type) and "  # " not in lines[f.name]]
    assert not undocumented


def _dataclasses(cls):
    yield cls
    for field in fields(cls):
        if is_dataclass(field.type):
            yield from _dataclasses(field.type)
