"""A training of adapters with dropout goes on as if it had not stopped, with either backbone (contract C6)."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from nemo_desta.checkpoint import latest_checkpoint
from nemo_desta.config import BackboneKind, DestaConfig
from nemo_desta.models.lightning import DestaModule
from nemo_desta.models.training import train
from nemo_desta.parallel.topology import stop
from tests.models.train_child import config
from tests.parallel.adapters import LORA, without_peft
from tests.tiny import tiny_targets

pytestmark = pytest.mark.timeout(900)  # minutes where other programs share the machine
BACKBONES = [
    pytest.param(BackboneKind.hf, marks=pytest.mark.skipif(without_peft(), reason="the hf backbone takes peft's adapters: the lora extra is not installed")),
    BackboneKind.megatron,
]


@pytest.fixture
def seen(monkeypatch) -> list[tuple]:
    """(step, loss, norm, whether the adapters' dropout and the LLM's layers are in training mode) of the steps that are taken."""
    found, log_step = [], DestaModule._log_step

    def watched(self, batch, loss, tokens, norm, lr):
        modules = dict(self.model.backbone.named_modules())
        adapters = [module.training for name, module in modules.items() if "lora_dropout" in name or ".adapters.of." in name]
        layers = [module.training for name, module in modules.items() if name.endswith("layers.0")]
        found.append((self.global_step, loss, norm, bool(adapters) and all(adapters), all(layers)))
        log_step(self, batch, loss, tokens, norm, lr)

    monkeypatch.setattr(DestaModule, "_log_step", watched)
    yield found
    stop()


def small(root: Path, backbone: BackboneKind) -> DestaConfig:
    tiny_targets(root)
    cfg = config(root)
    cfg.model.lora = dataclasses.replace(LORA, dropout=0.3)
    cfg.data.num_workers, cfg.data.taps_cache_gib = 0, 0.0
    cfg.trainer.max_steps, cfg.trainer.checkpoint_every_steps, cfg.trainer.tensorboard = 4, 2, False
    cfg.parallel.backbone, cfg.parallel.recompute = backbone, backbone == BackboneKind.megatron
    return cfg


@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_after_a_resume_are_those_of_a_run_that_was_left_alone(backbone, seen, tmp_path):
    cfg = small(tmp_path, backbone)
    last = train(cfg)
    whole = list(seen)
    assert [step for step, *_ in whole] == [1, 2, 3, 4] and all(dropping and training for *_, dropping, training in whole)
    seen.clear()
    shutil.rmtree(last)
    assert latest_checkpoint(tmp_path / "train") != last
    train(cfg)
    assert seen == whole[2:]
