"""From checkpoint to bundle with the made model: parts, parity, and what a second export does again."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

from nemo_desta.export import pipeline, verify_gpu, verify_vllm
from nemo_desta.export.bundle import read_manifest
from nemo_desta.export.hf_checkpoint import both_versions, tokenizer_for_both
from nemo_desta.export.pipeline import export
from nemo_desta.export.reference import FILE, Reference
from nemo_desta.export.runtime import OnnxModel
from nemo_desta.export.settings import Dtype, Target
from nemo_desta.export.sizes import part_sizes
from nemo_desta.export.source import open_source
from nemo_desta.export.verify import parity, verify
from nemo_desta.models import DestaModel
from tools import verify_bundle

TARGETS = [Target.onnx, Target.onnx_decoder, Target.trtllm, Target.trtllm_pytorch, Target.triton, Target.hf]


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the bundle that a test may spoil."""
    return shutil.copytree(made[1], tmp_path / "copy")


def test_the_manifest_says_what_is_inside(made):
    manifest = read_manifest(made[1])
    assert manifest["schema_version"] == 1 and manifest["gpu_validated"] is False
    assert manifest["targets_built"] == ["onnx", "onnx_decoder", "trtllm", "trtllm_pytorch", "triton", "hf"]
    audio = manifest["audio"]
    wanted = {"encoder": "whisper", "sample_rate": 16000, "num_mels": 80, "max_frames": 3000, "num_queries": 4, "hidden_size": 64, "max_audios": 2}
    assert audio | wanted == audio and not audio["fixed_frames"]
    assert manifest["prompt"]["placeholder_token"] == "<|placeholder|>" and "4 query slots" in manifest["prompt"]["layout"]
    assert set(manifest["source"]) == {"checkpoint", "llm", "encoder"} and len(manifest["source"]["llm"]["sha256"]) == 64
    assert all(check["ok"] for check in manifest["parity"].values()) and len(manifest["parity"]) == 4
    tower = manifest["parity"]["audio tower, ONNX Runtime"]
    assert tower["batch_sizes"] == [1, 2, 3, 5] and tower["ort_max_abs"] <= 1e-5
    assert "made sounds" in manifest["reference_clips"] and manifest["engine_versions"]["onnxruntime"]
    assert str(made[1]) not in (made[1] / "manifest.json").read_text()


def test_every_check_holds_and_the_tool_says_so(made, capsys):
    checks = verify(made[1])
    assert [c.ok for c in checks] == [True] * 5
    decoder = next(c for c in checks if "decoder" in c.name)
    assert decoder.figures["answers_equal"] == decoder.figures["answers"] == 7
    assert verify_bundle.main([str(made[1])]) == 0
    assert capsys.readouterr().out.count("ok  ") == 5
    assert verify_bundle.main([str(made[1] / "nowhere")]) == 2 and "no bundle" in capsys.readouterr().err


def test_the_gpu_checks_say_what_they_need_and_run_the_same_comparisons(made, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verify_bundle.main([str(made[1]), "--gpu"]) == 2 and "no CUDA device" in capsys.readouterr().err
    assert read_manifest(made[1])["gpu_validated"] is False
    monkeypatch.setattr(verify_gpu, "CUDA", "CPUExecutionProvider")  # the same code on the provider that is here
    monkeypatch.setattr(verify_gpu, "EXACT_CUDA", ("CPUExecutionProvider",))
    checks = verify_gpu.onnx_checks(made[1], Reference.load(made[1] / FILE), Dtype.float32)
    assert [c.ok for c in checks] == [True, True] and all(c.name.endswith(", CUDA") for c in checks)


def test_an_export_of_the_same_thing_makes_nothing_again(made):
    before = {p: p.stat().st_mtime_ns for p in made[1].rglob("*") if p.is_file() and p.name != "manifest.json"}
    manifest = export(made[0])
    assert all(part["reused"] for part in manifest["parts"].values())
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_an_export_needs_room_for_what_it_makes_anew(made, monkeypatch):
    asked = []

    def full(output, needed):
        asked.append(needed)
        raise ValueError("no room")

    monkeypatch.setattr(pipeline, "require_space", full)
    sizes = part_sizes(open_source(made[0]), made[0])
    assert set(sizes) == {"audio", "onnx_decoder", "trtllm", "hf"}
    for change, new in (({}, []), ({"tp": 1}, ["trtllm"]), ({"targets": [*TARGETS, Target.vllm]}, ["vllm"])):
        cfg = replace(made[0], **change)
        with pytest.raises(ValueError, match="no room"):
            export(cfg)
        sizes = part_sizes(open_source(cfg), cfg)
        assert asked.pop() == sum(sizes[name] for name in new)


def written(bundle, part):
    """Bytes of a part's files, without those that are links to another part's."""
    hf = {path.stat().st_ino for path in (bundle / "llm" / "hf").iterdir()} if part != "hf" else set()
    files = [bundle / file for file in read_manifest(bundle)["parts"][part]["files"]]
    return sum(path.stat().st_size for path in files if path.stat().st_ino not in hf)


def test_the_room_that_an_export_asks_for_is_what_it_writes(made):
    for part, size in part_sizes(open_source(made[0]), made[0]).items():
        assert written(made[1], part) <= size <= 3 * written(made[1], part), part


def test_a_vllm_that_cannot_run_costs_no_export_and_fails_the_check_of_a_bundle(made, copy, monkeypatch, capsys):
    monkeypatch.setattr(verify_vllm, "interpreter", lambda: "/bin/false")
    checkpoint = str(made[1].with_name("bundle.tiny-random") / "checkpoint")
    cfg = replace(made[0], checkpoint=checkpoint, output=str(copy), targets=[*TARGETS, Target.vllm])
    check = export(cfg)["parity"]["vLLM"]
    assert check["ok"] is None and "left out: vLLM (/bin/false) cannot run vllm" in check["detail"]
    assert read_manifest(copy)["parity"]["vLLM"] == check
    assert verify_bundle.main([str(copy)]) == 1
    assert "FAILED       vLLM: vLLM (/bin/false) cannot run" in (said := capsys.readouterr().out) and said.count("ok  ") == 5
    size = part_sizes(open_source(cfg), cfg)["vllm"]
    assert written(copy, "vllm") <= size <= 3 * written(copy, "vllm")


def test_tampering_is_seen(copy):
    path = copy / "llm" / "trtllm_ckpt" / "rank1.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if "mlp.fc" in n)
    save_file(tensors | {name: tensors[name] + 0.05}, path)
    assert [c.ok for c in verify(copy)] == [False]
    checks = {c.name: c.ok for c in parity(copy, read_manifest(copy)["settings"], [1])}
    assert checks["TensorRT-LLM checkpoint"] is False and checks["audio tower, ONNX Runtime"] is True
    assert verify_bundle.main([str(copy)]) == 1


def test_onnxruntime_answers_like_pytorch_from_sound_alone(made):
    """Samples -> NumPy features -> ONNX tower -> ONNX decoder, without PyTorch in between, one conversation with two clips among them."""
    model = DestaModel.from_pretrained(made[1].with_name("bundle.tiny-random") / "checkpoint")
    reference = Reference.load(made[1] / FILE)
    got = OnnxModel(made[1]).generate(reference.prompts, reference.clips, max_new_tokens=16)
    clips = [{"audio": torch.from_numpy(c), "text": f"clip {i}"} for i, c in enumerate(reference.clips)]
    conversations = []
    for prompt, question in zip(reference.prompts, ["What do you hear?", "Which language is spoken?", "Describe the sound."] * 3, strict=False):
        content = "\n".join([*["<|AUDIO|>"] * len(prompt.clips), "", question]).strip()
        system = {"role": "system", "content": "Focus on the audio clips and instructions."}
        conversations.append([system, {"role": "user", "content": content, "audios": [clips[i] for i in prompt.clips]}])
    want = [out.generated_ids for out in model.generate(conversations, max_new_tokens=16)]
    assert got == want and all(got)
    assert len({tuple(answer) for answer in got}) == 7 and min(len(set(answer)) for answer in got) > 3, "answers that say little cannot prove much"
    swapped = OnnxModel(made[1]).generate(reference.prompts, reference.clips[1:] + reference.clips[:1], max_new_tokens=16)
    assert [a != b for a, b in zip(got, swapped, strict=True)] == [bool(p.clips) for p in reference.prompts], "answers must depend on the sound"


def test_the_build_script_has_room_for_all_clips_and_parses(made):
    script = made[1] / "llm" / "trtllm_ckpt" / "build_engine.sh"
    text = script.read_text()
    assert f"--max_multimodal_len {4 * 2 * 4} " in text and "--max_batch_size 4 " in text and "--workers 4" in text and "--gpt_attention_plugin float32" in text
    for path in (script, made[1] / "audio" / "build_trt.sh"):
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0 and path.stat().st_mode & 0o100


def test_the_hugging_face_part_is_the_llm_with_keys_of_both_versions(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, source = made[1] / "llm" / "hf", made[1].with_name("bundle.tiny-random") / "llm"
    own, theirs = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).state_dict() for f in (folder, source))
    assert set(own) == set(theirs) and all(torch.equal(own[n], theirs[n]) for n in own)
    raw = json.loads((folder / "config.json").read_text())
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 500000.0 and raw["rope_scaling"]["rope_type"] == "llama3"
    assert raw["torch_dtype"] == raw["dtype"] == "float32"
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast" and "im_start" in tokens["chat_template"]
    messages = [{"role": "user", "content": "in the <|placeholder|> there"}]
    texts = [AutoTokenizer.from_pretrained(f).apply_chat_template(messages, tokenize=True)["input_ids"] for f in (folder, source)]
    assert texts[0] == texts[1]


def test_configs_of_version_4_gain_the_keys_of_version_5():
    old = {"rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "bfloat16"}
    new = both_versions(old, Dtype.float16)
    assert new["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6} and new["rope_scaling"] is None and new["dtype"] == "float16"
    tokens = tokenizer_for_both({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "backend": "tokenizers"})
    assert tokens == {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<x>"]}
