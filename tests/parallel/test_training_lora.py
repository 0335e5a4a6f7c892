"""A training of LoRA adapters under torchrun: killed, resumed under another layout, gone on with by the Hugging Face backbone, merged for export."""

import shutil

import pytest
import torch

from nemo_desta.checkpoint import load_weights
from nemo_desta.checkpoint.connector import LORA_PREFIX
from nemo_desta.checkpoint.lightning_io import load_state
from nemo_desta.export.source import merge_lora
from nemo_desta.models.desta import DestaModel
from tests.parallel.adapters import without_peft
from tests.parallel.runs import checkpoint, fresh_run, losses, run, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # minutes where other programs share the machine
    pytest.mark.skipif(without_peft(), reason="the hf backbone takes peft's adapters: the lora extra is not installed"),
]


def test_a_run_goes_on_under_every_layout_and_backbone_and_is_merged(data, tmp_path):
    plain, root = fresh_run(data, tmp_path / "plain"), fresh_run(data, tmp_path / "parallel")
    done = run(data, plain, 1, lora=True)
    assert done.returncode == 0, done.stderr[-2000:]
    killed = run(data, root, 2, lora=True, parallel__pp=2, die_at=[1, 3])
    assert killed.returncode != 0 and checkpoint(root, 2).is_dir() and not checkpoint(root, 4).is_dir()
    resumed = run(data, root, 2, lora=True, parallel__tp=2)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    wanted = losses(plain)
    for step, values in wanted.items():
        assert losses(root)[step] == pytest.approx(values, rel=1e-4), step
    check_same_checkpoint(checkpoint(root, 6), checkpoint(plain, 6))
    shutil.rmtree(checkpoint(root, 6))
    (root / "losses.jsonl").unlink()
    after = run(data, root, 1, lora=True)
    assert after.returncode == 0, after.stderr[-2000:]
    assert sorted(losses(root)) == [5, 6] and losses(root)[6] == pytest.approx(wanted[6], rel=1e-4)
    check_merged(checkpoint(root, 4))


def test_dropout_is_drawn_again_after_a_resume(data, tmp_path):
    """With several processes that have random states of their own, and one that they share."""
    layout, root = {"lora": True, "dropout": 0.3, "parallel__tp": 2}, fresh_run(data, tmp_path / "run")
    done = run(data, root, 2, **layout)
    assert done.returncode == 0, done.stderr[-2000:]
    whole = losses(root)
    (root / "losses.jsonl").unlink()
    shutil.rmtree(checkpoint(root, 6))
    resumed = run(data, root, 2, **layout)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    again = losses(root)
    assert sorted(again) == [5, 6] and again == {step: whole[step] for step in again}


def check_same_checkpoint(folder, other):
    """Names, shapes and configuration are the same, and so is what the optimiser knows of every parameter."""
    assert (folder / "config.json").read_bytes() == (other / "config.json").read_bytes()
    assert tensors(folder) == tensors(other) and any(name.startswith(LORA_PREFIX) for name in tensors(folder))
    (mine,), (wanted,) = (load_state(f)["optimizer_states"] for f in (folder, other))
    assert mine["param_groups"] == wanted["param_groups"] and mine["state"].keys() == wanted["state"].keys()
    for number, entry in wanted["state"].items():
        assert {key: value.shape for key, value in entry.items()} == {key: value.shape for key, value in mine["state"][number].items()}
        assert mine["state"][number]["step"] == entry["step"], number


def check_merged(folder):
    """A checkpoint of several processes is merged into the LLM like any other."""
    model = DestaModel.from_pretrained(folder)
    before = {name.replace("base_layer.", ""): tensor.clone() for name, tensor in model.backbone.base.state_dict().items() if "lora_" not in name}
    adapter = {name: tensor for name, tensor in load_weights(folder).items() if "layers.1.self_attn.o_proj" in name}
    a, b = (next(tensor for name, tensor in adapter.items() if half in name) for half in ("lora_A", "lora_B"))
    merged = merge_lora(model).state_dict()
    name = "model.layers.1.self_attn.o_proj.weight"
    assert float(b.abs().sum()) > 0 and torch.allclose(merged[name], before[name] + 2.0 * b @ a, atol=1e-6)  # alpha / rank = 2
    assert not any("lora" in name for name in merged)
