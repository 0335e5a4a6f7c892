"""The vLLM part of a bundle, without vLLM: its files, and the tower that the plugin builds from them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

from nemo_desta.config import PadTo
from nemo_desta.export import verify_vllm
from nemo_desta.export.bundle import BundleWriter
from nemo_desta.export.keys import PartKeys
from nemo_desta.export.pipeline import _Exporter, check_targets
from nemo_desta.export.reference import Reference
from nemo_desta.export.runtime import Prompt
from nemo_desta.export.settings import Dtype, ExportConfig, Quantization, Target
from nemo_desta.export.source import check_vllm, made_clips, open_source
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.export.verify import vllm_check
from nemo_desta.export.vllm_parts import TOWER_FILE
from nemo_desta.modules.log_mel import LogMel
from nemo_desta.serving.vllm_plugin.config import ARCHITECTURE, NemoDestaConfig, build_perception


def vllm_part(folder: Path, checkpoint: Path | None = None, **tiny):
    """(PyTorch model, bundle) with the parts that vLLM needs, of a made model unless told otherwise."""
    checkpoint = checkpoint or make_tiny_checkpoint(folder / "model", **tiny)
    cfg = ExportConfig(checkpoint=str(checkpoint), output="", targets=[Target.vllm], dtype=Dtype.float32)
    source = open_source(cfg)
    model = source.load().eval()
    (folder / "bundle").mkdir()
    _Exporter(PartKeys(cfg, source), model, model.backbone.base, BundleWriter(folder / "bundle", None)).add_vllm()
    return model, folder / "bundle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return vllm_part(tmp_path_factory.mktemp("vllm"))


def test_one_directory_holds_the_whole_model(made):
    model, bundle = made
    folder = bundle / "vllm"
    raw = json.loads((folder / "config.json").read_text())
    config = NemoDestaConfig(**raw)
    assert config.architectures == [ARCHITECTURE] and config.get_text_config().vocab_size == model.backbone.base.config.vocab_size
    assert config.text_config.architectures == ["LlamaForCausalLM"] and config.text_config.rope_parameters["rope_type"] == "llama3"
    assert config.nemo_desta["transcriber"] and config.nemo_desta["num_queries"] == 4
    assert config.nemo_desta["placeholder_token"] == "<|placeholder|>"
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)}
    assert where == stored and {name for name, file in where.items() if file == TOWER_FILE} == {f"perception.{n}" for n in model.perception.state_dict()}
    assert (folder / "model.safetensors").samefile(bundle / "llm" / "hf" / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": [{"type": "audio", "transcript": "the"}, {"type": "text", "text": "What?"}]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    slots = "<|placeholder|>" * 2
    assert text.startswith("<|im_start|>system\nFocus on the audio") and f"<start_audio>{slots}the{slots}<end_audio>\n\nWhat?" in text
    assert (folder / "transcriber" / "model.safetensors").is_file()


@pytest.mark.parametrize("pad_to", list(PadTo))
def test_the_plugins_tower_gives_the_models_vectors(tmp_path, pad_to):
    model, bundle = vllm_part(tmp_path, pad_to=pad_to, normalize_taps=pad_to is PadTo.longest)
    card = json.loads((bundle / "vllm" / "config.json").read_text())["nemo_desta"]
    tower = build_perception(card["perception"], card["hidden_size"])
    tower.load_state_dict({name.removeprefix("perception."): t for name, t in load_file(bundle / "vllm" / TOWER_FILE).items()})
    clips = made_clips(3)
    with torch.inference_mode():
        wanted = torch.cat([model.perception.listen([clip]) for clip in clips])
        features = LogMel(card["num_mels"], max_frames=card["max_frames"])(clips, PadTo(card["perception"]["pad_to"]))
        torch.testing.assert_close(tower(*features), wanted, atol=2e-5, rtol=1e-4)


def test_what_the_plugin_cannot_run_is_refused(tmp_path):
    targets = [Target.vllm]
    with pytest.raises(ValueError, match="vllm, which takes no quantization=fp8"):
        check_targets(ExportConfig(checkpoint="x", output="y", targets=targets, quantization=Quantization.fp8))
    with pytest.raises(ValueError, match="parity_clips=0"):
        check_targets(ExportConfig(checkpoint="x", output="y", targets=targets, parity_clips=0))
    source = open_source(ExportConfig(checkpoint=str(make_tiny_checkpoint(tmp_path)), output="", targets=targets))
    few = replace(source.model_config, connector=replace(source.model_config.connector, num_queries=3))
    with pytest.raises(ValueError, match="at least 4 vectors a clip; the checkpoint has 3"):
        check_vllm(replace(source, model_config=few))
    with pytest.raises(ValueError, match=r"runs Whisper encoders; the checkpoint has hf://nvidia/canary-1b-flash"):
        check_vllm(replace(source, model_config=replace(source.model_config, encoder="hf://nvidia/canary-1b-flash")))


def test_without_vllm_the_check_says_that_it_was_not_made(made, monkeypatch):
    monkeypatch.setattr(verify_vllm, "interpreter", lambda: None)
    check = vllm_check(made[1], None, Dtype.float32)
    assert check.ok is None and "tools/vllm_env.sh" in check.detail
    with pytest.raises(ValueError, match="NEMO_DESTA_VLLM names no Python"):
        verify_vllm.ask(made[1] / "vllm", "float32", [], new_tokens=1, max_length=8)
    monkeypatch.setattr(verify_vllm, "interpreter", lambda: "/bin/false")
    with pytest.raises(ValueError, match=r"vLLM \(/bin/false\) cannot run"):
        verify_vllm.ask(made[1] / "vllm", "float32", [], new_tokens=1, max_length=8)


REFERENCE = Reference([np.zeros(1600, np.float32)], [], np.zeros(0), [Prompt([1, 2, 3]), Prompt([4])], np.zeros(0), [[5, 6], [7]])


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo no model; exit 1", r"left out: vLLM \(.*\) cannot run vllm: no model"),
        ("exec sleep 60", r"left out: vLLM \(.*\) did not answer within 0\.2 s"),
        (None, r"left out: vLLM \(.*\) cannot be started \(.*No such file.*let NEMO_DESTA_VLLM name a Python"),
        (f"seq 1 2000; exit 1 # {'x' * 20}", r"^.{1,700}1999 2000$"),
    ],
    ids=["fails", "hangs", "is no program", "says much"],
)
def test_a_vllm_without_answers_says_nothing_about_the_bundle(made, monkeypatch, tmp_path, program, reason):
    python = tmp_path / "python"
    if program is not None:
        python.write_text(f"#!/bin/bash\n{program}\n")
        python.chmod(0o755)
    monkeypatch.setattr(verify_vllm, "interpreter", lambda: str(python))
    monkeypatch.setattr(verify_vllm, "SECONDS", 0.2 if program == "exec sleep 60" else 60)
    check = vllm_check(made[1], REFERENCE, Dtype.float32, staged=True)
    assert check.ok is None and re.search(reason, check.detail), check.detail
    rejected = program is not None and "exit 1" in program  # of a finished bundle that is a failure: vLLM ran, and could not run the model
    assert vllm_check(made[1], REFERENCE, Dtype.float32).ok is (False if rejected else None)


def test_wrong_answers_of_vllm_are_wrong(made, monkeypatch):
    monkeypatch.setattr(verify_vllm, "interpreter", lambda: "python")
    right = {"version": "0.32", "prompts": [[1, 2, 3], [4]], "answers": [[5, 6], [7]]}
    for said, ok in ((right, True), (right | {"answers": [[5, 6], [8]]}, False), (right | {"prompts": [[1, 2, 3], [5]]}, False)):
        monkeypatch.setattr(verify_vllm, "ask", lambda *a, said=said, **k: said)
        assert vllm_check(made[1], replace(REFERENCE, clips=[]), Dtype.float32).ok is ok
