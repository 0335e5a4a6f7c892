"""What an export takes, and what it refuses before any long work."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

from nemo_desta.data.conversation import render
from nemo_desta.export.bundle import claimed
from nemo_desta.export.pipeline import check_targets, export
from nemo_desta.export.settings import CalibrationConfig, Dtype, ExportConfig, Quantization, Target, typed_export
from nemo_desta.export.source import load_clips, open_source
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.models import DestaModel

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [Target.onnx, Target.onnx_decoder, Target.trtllm, Target.trtllm_pytorch, Target.triton, Target.hf]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("source"))


@pytest.fixture
def spoiled(checkpoint, tmp_path):
    """A copy of the checkpoint, and settings that name it."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    return folder, ExportConfig(checkpoint=str(folder), output=str(tmp_path / "out" / "bundle"), targets=[Target.trtllm])


def refused(cfg, message, monkeypatch):
    """The export fails with a message, without loading the model and without writing anything."""
    monkeypatch.setattr(DestaModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=message):
        export(cfg)
    assert not Path(cfg.output).exists() and not Path(cfg.output).with_name("bundle.part").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tp": 3}, "tp=3 does not divide the LLM's 4 attention heads"),
        ({"pp": 4}, "pp=4 is more than the LLM's 3 layers"),
        ({"tp": 2, "targets": [Target.onnx, Target.hf]}, "tp=2 pp=1 split a TensorRT-LLM checkpoint, and targets has none: add trtllm"),
        ({"pp": 2, "targets": [Target.onnx_decoder]}, "leave tp and pp at 1"),
        ({"tp": 0, "targets": [Target.vllm]}, "tp=0 pp=1 split"),
        ({"quantization": Quantization.fp8, "targets": [Target.onnx_decoder]}, "quantization=fp8 quantises trtllm, trtllm_pytorch, hf, and targets has none"),
        ({"quantization": Quantization.int4_awq, "targets": [Target.onnx]}, "int4_awq quantises .* leave quantization out"),
        ({"checkpoint": "/no/such/checkpoint"}, "no checkpoint at"),
        ({"targets": []}, "targets is empty"),
        ({"targets": [Target.onnx_decoder], "dtype": Dtype.bfloat16}, "no bfloat16"),
        ({"targets": [Target.triton]}, "add trtllm"),
        ({"targets": [Target.triton, Target.trtllm], "dtype": Dtype.bfloat16}, "float16 or float32"),
        ({"parity_batches": [0]}, "parity_batches"),
        ({"clips": ["/no/such/clips"]}, "there is no /no/such/clips"),
        ({"encoder": "/no/such/encoder"}, "/no/such/encoder"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_settings_that_do_not_fit(spoiled, monkeypatch, change, message):
    refused(replace(spoiled[1], **change), message, monkeypatch)


def test_int4_needs_groups_of_128(spoiled, monkeypatch):
    monkeypatch.setattr("nemo_desta.export.quantize.require_modelopt", lambda: None)
    refused(replace(spoiled[1], quantization=Quantization.int4_awq), "groups of 128 inputs.*hidden size 64", monkeypatch)


def test_a_quantised_hugging_face_directory_alone_is_checked_too(spoiled, tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr("nemo_desta.export.quantize.require_modelopt", lambda: None)
    cfg = replace(spoiled[1], targets=[Target.hf], quantization=Quantization.int4_awq)
    refused(cfg, "groups of 128 inputs.*hidden size 64", monkeypatch)
    llm = shutil.copytree(checkpoint.parent / "llm", tmp_path / "llm")
    raw = json.loads((llm / "config.json").read_text())
    monkeypatch.setattr("nemo_desta.models.build.load_tokenizer", _tokenizer_of(checkpoint.parent / "llm"))
    (llm / "config.json").write_text(json.dumps(raw | {"model_type": "mistral"}))
    cfg = replace(cfg, llm=str(llm), quantization=Quantization.fp8)
    refused(cfg, "quantization=fp8 knows llama, qwen2, qwen3, the LLM is a 'mistral' model: leave quantization out", monkeypatch)
    assert open_source(replace(cfg, quantization=None)).llm_raw["model_type"] == "mistral"


def test_both_manifests_of_the_calibrations_corpus_must_be_there(spoiled, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_desta.export.quantize.require_modelopt", lambda: None)
    cfg = replace(spoiled[1], quantization=Quantization.fp8, calibration=CalibrationConfig(corpus=str(tmp_path)))
    for split in ("test", "train"):
        refused(cfg, rf"calibration\.corpus: there is no .*cuts_{split}\.jsonl\.gz", monkeypatch)
        (tmp_path / f"cuts_{split}.jsonl.gz").touch()
    check_targets(cfg)


def test_missing_modelopt_and_tensorrt_say_how_to_install_them(spoiled, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name.startswith(("modelopt", "tensorrt")) else real(name, *a))
    refused(replace(spoiled[1], quantization=Quantization.fp8), "pip install 'nvidia-modelopt", monkeypatch)
    refused(replace(spoiled[1], targets=[Target.tensorrt_rtx]), "pip install tensorrt-rtx", monkeypatch)


def rewrite(folder, change):
    """Change the connector's tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("perception.connector.layer_weights"), r"lacks 1 of the connector's \d+ tensors, first perception.connector.layer_weights"),
        (lambda t: t.update({"perception.connector.proj.1.weight": torch.zeros(80, 32)}), "trained for an LLM of width 80, .* has 64"),
        (lambda t: t.update({"perception.connector.layer_weights": torch.zeros(4, 3)}), r"layer_weights has shape \(4, 3\), encoder and LLM ask for \(4, 4\)"),
    ],
    ids=["missing", "another LLM", "another encoder"],
)
def test_connectors_that_do_not_fit(spoiled, monkeypatch, change, message):
    rewrite(spoiled[0], change)
    refused(spoiled[1], message, monkeypatch)


def test_foreign_checkpoints(spoiled, monkeypatch):
    (spoiled[0] / "model.safetensors").write_bytes(b"cut off")
    refused(spoiled[1], "cannot read the weights", monkeypatch)
    (spoiled[0] / "config.json").write_text('{"model_type": "llama"}')
    refused(spoiled[1], "not a DeSTA2.5-Audio checkpoint", monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"), [({"model_type": "gpt2"}, "'gpt2' model: the writer knows"), ({"vocab_size": 100}, "needs token id .* vocabulary ends at 99")]
)
def test_llms_that_do_not_fit(spoiled, tmp_path, monkeypatch, checkpoint, change, message):
    llm = shutil.copytree(checkpoint.parent / "llm", tmp_path / "llm")
    raw = json.loads((llm / "config.json").read_text())
    monkeypatch.setattr("nemo_desta.models.build.load_tokenizer", _tokenizer_of(checkpoint.parent / "llm"))
    (llm / "config.json").write_text(json.dumps(raw | change))
    refused(replace(spoiled[1], llm=str(llm)), message, monkeypatch)


def _tokenizer_of(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda llm: tokenizer


def test_no_room_on_the_disk_is_said_before_any_long_work(spoiled, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    refused(spoiled[1], "make room or choose another output", monkeypatch)


def test_a_foreign_output_and_one_that_another_export_writes_are_said_before_any_long_work(spoiled, monkeypatch):
    output = Path(spoiled[1].output)
    with claimed(output):
        refused(spoiled[1], "bundle is being written by process", monkeypatch)
        alias = output.parent / "alias"
        alias.symlink_to(output)
        refused(replace(spoiled[1], output=str(alias)), "bundle is being written by process", monkeypatch)
    monkeypatch.setattr(DestaModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no bundle: choose another output"):
        export(spoiled[1])
    assert sorted(p.name for p in output.parent.iterdir()) == ["alias", "bundle"]


def test_a_part_that_says_something_else_stops_the_export(spoiled, monkeypatch):
    """A writer that exchanges two matrices is caught by the forward pass over its files, and the bundle does not appear."""
    import nemo_desta.export.trtllm_checkpoint as writer

    real = writer.rank_tensors

    def wrong(*args):
        tensors = real(*args)
        for name in [n for n in tensors if n.endswith("mlp.fc.weight")]:
            other = name.replace("fc", "gate")
            tensors[name], tensors[other] = tensors[other], tensors[name]
        return tensors

    monkeypatch.setattr(writer, "rank_tensors", wrong)
    with pytest.raises(ValueError, match="does not say what the PyTorch model says: TensorRT-LLM checkpoint"):
        export(replace(spoiled[1], dtype=Dtype.float32))
    assert not Path(spoiled[1].output).exists()


def test_published_checkpoints_are_the_reference_layout(checkpoint, tmp_path):
    source = open_source(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "b"), targets=TARGETS))
    assert source.llm_folder == checkpoint.parent / "llm" and source.llm_raw["model_type"] == "llama"
    clips, origin = load_clips([])
    assert len(clips) == 5 and "made" in origin


def test_the_shipped_configuration_is_typed(tmp_path):
    def load(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            return typed_export(compose("export", overrides=list(overrides)))

    cfg = load("checkpoint=a", "output=b", "targets=[onnx,tensorrt_rtx]", "tp=2", "dtype=bfloat16", "quantization=fp8")
    assert (cfg.targets, cfg.tp, cfg.dtype, cfg.quantization) == ([Target.onnx, Target.tensorrt_rtx], 2, Dtype.bfloat16, Quantization.fp8)
    for wrong in ("targets=[tensorflow]", "dtype=int3", "+speed=1", "tp=two"):
        with pytest.raises((HydraException, OmegaConfBaseException)):
            load("checkpoint=a", "output=b", wrong)


def test_rendering_of_chat_text_is_that_of_messages(checkpoint):
    from transformers import AutoTokenizer

    from nemo_desta.data.conversation import AudioLayout, render_chat_text

    tokenizer, layout = AutoTokenizer.from_pretrained(checkpoint.parent / "llm"), AudioLayout("<|placeholder|>", 4, None)
    messages = [{"role": "user", "content": "<|AUDIO|> and <start_audio><|AUDIO|><end_audio>\n\nthe same?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert render_chat_text(text, tokenizer, layout, transcripts=["a", None]) == render(messages, tokenizer, layout, transcripts=["a", None])
    with pytest.raises(ValueError, match=r"2 .* locators, but 1 clips"):
        render_chat_text(text, tokenizer, layout, transcripts=["a"])
