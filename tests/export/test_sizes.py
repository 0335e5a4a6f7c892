"""What an export counts before it writes: parameters in the format of the bundle, and the files behind names. Parts as they are written: test_pipeline.py."""

from dataclasses import replace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_desta.export import sizes
from nemo_desta.export.keys import PartKeys
from nemo_desta.export.settings import Dtype, ExportConfig, Target
from nemo_desta.export.sizes import part_sizes, trtllm_elements
from nemo_desta.export.source import open_source, tensor_shapes
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.export.trtllm_checkpoint import FolderWeights, write_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(ExportConfig(checkpoint=str(make_tiny_checkpoint(tmp_path_factory.mktemp("sizes"))), output="", targets=[Target.onnx]))


def config(targets, **more):
    return ExportConfig(checkpoint="", output="", targets=targets, **{"dtype": Dtype.float32, **more})


def test_the_format_of_the_bundle_counts_not_that_of_the_source(source, tmp_path):
    for path in source.llm_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source.llm_folder / "model.safetensors")
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    single = sum(tensor.numel() for tensor in tensors.values())
    for folder in (source.llm_folder, tmp_path):
        whole, half = (part_sizes(replace(source, llm_folder=folder), config([Target.hf], dtype=dtype)) for dtype in (Dtype.float32, Dtype.float16))
        assert 4 * single < whole["hf"] < 4 * single + 300_000 and whole["hf"] - half["hf"] == 2 * single
        tower = sizes.encoder_elements(source) + sizes.connector_elements(source)
        assert whole["audio"] - half["audio"] == pytest.approx(2 * tower, rel=0.05)


def test_the_tower_holds_the_encoder_up_to_its_last_tap(source):
    model = source.load()
    assert sizes.encoder_elements(source) == sum(p.numel() for p in model.perception.encoder.parameters())
    assert sizes.connector_elements(source) == sum(t.numel() for t in model.perception.connector.state_dict().values())


def test_the_encoder_of_a_nemo_file_is_the_file(source, tmp_path):
    (tmp_path / "canary.nemo").write_bytes(bytes(4000))
    assert sizes.encoder_elements(replace(source, model_config=replace(source.model_config, encoder=str(tmp_path / "canary.nemo")))) == 1000


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 3), (4, 1)])
def test_what_several_ranks_hold_counts_several_times(tmp_path, family, tp, pp):
    source = open_source(ExportConfig(checkpoint=str(make_tiny_checkpoint(tmp_path, family=family)), output="", targets=[Target.onnx]))
    (tmp_path / "out").mkdir()
    write_checkpoint(FolderWeights(source.llm_folder), source.llm_raw, tmp_path / "out", tp=tp, pp=pp, dtype=Dtype.float16)
    written = sum(tensor.numel() for path in (tmp_path / "out").glob("*.safetensors") for tensor in load_file(path).values())
    counted = trtllm_elements(tensor_shapes(source.llm_folder / "model.safetensors"), source.llm_raw, tp)
    assert written <= counted <= 1.02 * written


def test_engines_of_the_decoder_and_the_transcriber_need_room(source):
    alone, both = (part_sizes(source, config([Target.tensorrt_rtx, *more])) for more in ([], [Target.onnx_decoder]))
    assert both["tensorrt_rtx"] - alone["tensorrt_rtx"] >= both["onnx_decoder"] > 0 and alone["tensorrt_rtx"] > alone["audio"]
    with_words, without = (part_sizes(source, config([Target.vllm], transcriber=wanted)) for wanted in (True, False))
    whisper = (source.checkpoint.parent / "whisper" / "model.safetensors").stat().st_size
    assert whisper <= with_words["vllm"] - without["vllm"] <= 3 * whisper + sizes.BESIDE_BYTES


def test_a_hub_encoder_of_another_revision_is_another_encoder(source, tmp_path, monkeypatch):
    """The name in the checkpoint stays the same; of the repository count the files that are loaded."""
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(tmp_path))
    named = replace(source, model_config=replace(source.model_config, encoder="hf://openai/whisper-large-v3"))

    def hashes():
        return PartKeys(config([Target.onnx]), named).hashes["encoder"]

    for name in ("config.json", "model.safetensors", "model.fp32-00001-of-00002.safetensors", "flax_model.msgpack", "pytorch_model.bin"):
        (tmp_path / name).write_text("first")
    first = hashes()
    assert first["name"] == "openai/whisper-large-v3" and set(first["files"]) == {"config.json", "model.safetensors"}
    assert asked[0][0] == "openai/whisper-large-v3" and "pytorch_model*.bin" not in asked[0][1]
    (tmp_path / "pytorch_model.bin").write_text("second")
    assert hashes() == first
    (tmp_path / "model.safetensors").write_text("second")
    assert hashes() != first
    (tmp_path / "model.safetensors").unlink()
    assert set(hashes()["files"]) == {"config.json", "pytorch_model.bin"} and "pytorch_model*.bin" in asked[-1][1]
