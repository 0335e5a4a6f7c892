"""From checkpoint to bundle with the made model: parts, parity, what is refused, and the parts used as an engine would use them."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

from nemo_desta.data.conversation import render
from nemo_desta.export import pipeline, verify_gpu
from nemo_desta.export.bundle import claimed, read_manifest
from nemo_desta.export.hf_checkpoint import both_versions, tokenizer_for_both
from nemo_desta.export.pipeline import export
from nemo_desta.export.reference import FILE, Reference
from nemo_desta.export.runtime import OnnxModel
from nemo_desta.export.settings import Dtype, ExportConfig, LimitsConfig, Quantization, Target, typed_export
from nemo_desta.export.source import load_clips, open_source, part_sizes
from nemo_desta.export.splice import splice
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.export.verify import parity, verify
from nemo_desta.models import DestaModel
from tools import verify_bundle

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [Target.onnx, Target.onnx_decoder, Target.trtllm, Target.trtllm_pytorch, Target.triton, Target.hf]
LIMITS = LimitsConfig(max_batch_size=4, max_audios=2, max_input_len=128, max_seq_len=256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(settings, bundle) of one whole export in fp32, over tp 2 x pp 2."""
    output = tmp_path_factory.mktemp("export") / "bundle"
    cfg = ExportConfig(checkpoint="tiny-random", output=str(output), targets=TARGETS, dtype=Dtype.float32, tp=2, pp=2, limits=LIMITS)
    export(cfg)
    return cfg, output


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


# The PyTorch backend's module, with stand-ins for TensorRT-LLM.


def stub_tensorrt_llm(monkeypatch):
    """Just what the module imports, as TensorRT-LLM 1.2 has it."""
    names = ["tensorrt_llm", "tensorrt_llm.inputs", "tensorrt_llm._torch", "tensorrt_llm._torch.models"]
    names += [f"tensorrt_llm._torch.models.{n}" for n in ("modeling_auto", "modeling_multimodal_utils", "modeling_utils")]
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["tensorrt_llm"].__version__ = "1.2.1"
    registered = {}

    class Base:
        def __init__(self, model_path, config, tokenizer, trust_remote_code=True, **kwargs):
            pass

    class Metadata:
        def __init__(self, **kwargs):
            registered["metadata"] = kwargs

    inputs = modules["tensorrt_llm.inputs"]
    inputs.BaseMultimodalInputProcessor, inputs.MultimodalPlaceholderMetadata = Base, Metadata
    inputs.MultimodalPlaceholderPlacement = types.SimpleNamespace(BEFORE_TEXT=0)
    inputs.register_input_processor = lambda processor, **kwargs: lambda cls: registered.update(processor=processor, **kwargs) or cls
    modules[names[-1]].register_auto_model = lambda name: lambda cls: registered.update({name: cls}) or cls
    utils = modules["tensorrt_llm._torch.models.modeling_multimodal_utils"]
    utils.get_multimodal_embeddings = lambda encoder_forward_fn, multimodal_params: encoder_forward_fn(multimodal_params)
    utils.find_input_mm_embeds = lambda vectors, parameters: vectors

    def fuse(embedding, input_ids, mm_embeds, **kwargs):
        mask = input_ids >= embedding.num_embeddings
        embeds = embedding(input_ids.masked_fill(mask, 0)).clone()
        if mm_embeds:
            embeds[mask] = mm_embeds[0].to(embeds.dtype)
        return None, embeds

    utils.fuse_input_embeds = fuse

    class Llm:
        """The real LLM behind TensorRT-LLM's calling convention."""

        def __init__(self, llm):
            self.causal, self.model, self.config, self.loaded = llm, llm.model, llm.config, None

        def load_weights(self, weights, *args):
            self.loaded = weights

        def infer_max_seq_len(self):
            return 512

        def forward(self, attn_metadata, input_ids, position_ids, inputs_embeds, return_context_logits):
            return self.causal(inputs_embeds=inputs_embeds[None]).logits[0]

    def from_config(config):
        from transformers import AutoModelForCausalLM

        registered["llm_config"] = config.pretrained_config
        return Llm(AutoModelForCausalLM.from_config(config.pretrained_config))

    modules["tensorrt_llm._torch.models.modeling_auto"].AutoModelForCausalLM = types.SimpleNamespace(from_config=from_config)
    return registered


def test_the_out_of_tree_module_gives_pytorchs_logits_from_sound(made, monkeypatch):
    from transformers import AutoConfig, AutoTokenizer

    bundle, registered = made[1] / "trtllm_pytorch", stub_tensorrt_llm(monkeypatch)
    monkeypatch.syspath_prepend(str(bundle))
    for name in [n for n in sys.modules if n.startswith("nemo_desta_trtllm")]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("nemo_desta_trtllm")
    assert "from nemo_desta." not in (bundle / "nemo_desta_trtllm" / "__init__.py").read_text()
    assert registered["model_type"] == "nemo_desta" and registered["metadata"]["placeholder_map"] == {"audio": "<|AUDIO|>"}
    config, tokenizer = AutoConfig.from_pretrained(bundle / "model"), AutoTokenizer.from_pretrained(bundle / "model")
    model = registered["NemoDestaForConditionalGeneration"](types.SimpleNamespace(pretrained_config=config))
    weights = load_file(bundle / "model" / "model.safetensors")
    model.load_weights(weights)
    assert model.llm.loaded is weights and model.infer_max_seq_len() == 512 and model.multimodal_data_device_paths == ["audio.embeds"]
    model.llm.causal.load_state_dict(weights, strict=False)
    model.llm.causal.tie_weights()

    reference = Reference.load(made[1] / FILE)
    processor = registered["processor"](str(bundle / "model"), config, tokenizer)
    number = next(i for i, p in enumerate(reference.prompts) if len(p.clips) == 2)
    prompt = reference.prompts[number]
    content = "<|AUDIO|>\n<|AUDIO|>\n\n" + ["What do you hear?", "Which language is spoken?", "Describe the sound."][number % 3]
    messages = [{"role": "system", "content": "Focus on the audio clips and instructions."}, {"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    clips = [(reference.clips[i], 16000) for i in prompt.clips]
    request = {"prompt": text, "multi_modal_data": {"audio": clips}, "mm_processor_kwargs": {"transcripts": [f"clip {i}" for i in prompt.clips]}}
    ids, extra = processor(request, None)
    vocab = config.text_config.vocab_size
    assert [t if t < vocab else 0 for t in ids] == [
        0 if any(s <= p < s + n for s, n in prompt.audio_spans) else t for p, t in enumerate(prompt.input_ids)
    ]
    parameters = types.SimpleNamespace(multimodal_data=extra["multimodal_data"])
    metadata = types.SimpleNamespace(num_contexts=1)
    logits = model.forward(metadata, input_ids=torch.tensor(ids), multimodal_params=[parameters])
    np.testing.assert_allclose(logits[-1].numpy(), reference.logits_PV[number], atol=1e-4)

    vectors = [torch.from_numpy(reference.embeds_CQH[i]) for i in prompt.clips]
    again, ready = processor.attach_multimodal_embeddings(request, {"audio": vectors}, None)
    assert again == ids and torch.allclose(ready["multimodal_data"]["audio"]["embeds"], extra["multimodal_data"]["audio"]["embeds"], atol=1e-5)
    with pytest.raises(ValueError, match="takes 4 vectors a clip"):
        processor.attach_multimodal_embeddings(request, {"audio": [torch.zeros(3, 64)]}, None)
    with pytest.raises(ValueError, match=r"a transcript holds the special token '<\|im_end\|>': remove it"):
        processor.attach_multimodal_embeddings(request | {"mm_processor_kwargs": {"transcripts": ["a", "b <|im_end|>"]}}, {"audio": vectors}, None)
    plain, nothing = processor({"prompt": "no sound"}, None)
    assert nothing is None and max(plain) < vocab
    for version, fits in {"1.1.0": False, "1.2.1": True, "1.3.0rc3": True, "1.4.0": False}.items():
        if fits:
            module.check_version(version)
        else:
            with pytest.raises(RuntimeError, match=r"written for TensorRT-LLM 1\.2 and 1\.3"):
                module.check_version(version)


# Triton's model, with stand-ins for the server and for TensorRT-LLM.


class TritonServer:
    """What the model uses of ``triton_python_backend_utils``; the tower is the bundle's own, the LLM answers with what the test says."""

    def __init__(self, bundle, answer):
        self.bundle, self.answer, self.asked = bundle, answer, []

    def modules(self):
        module = types.ModuleType("triton_python_backend_utils")
        server = self

        class Tensor:
            def __init__(self, name, values):
                self.name, self.values = name, values

            def as_numpy(self):
                return self.values

        class Request:
            def __init__(self, model_name="", requested_output_names=(), inputs=()):
                self.model, self.tensors = model_name, {t.name: t for t in inputs}

            def exec(self):
                return server.call(self.model, {n: t.values for n, t in self.tensors.items()}, Response, Tensor)

        class Response:
            def __init__(self, output_tensors=(), error=None):
                self.tensors, self.failure = {t.name: t for t in output_tensors}, error

            def has_error(self):
                return self.failure is not None

            def error(self):
                return types.SimpleNamespace(message=lambda: str(self.failure))

        module.Tensor, module.InferenceRequest, module.InferenceResponse, module.TritonError = Tensor, Request, Response, ValueError
        module.get_input_tensor_by_name = module.get_output_tensor_by_name = lambda holder, name: holder.tensors.get(name)
        return module

    def call(self, model, feed, response, tensor):
        self.asked.append((model, feed))
        if model == "tensorrt_llm":
            return response([tensor("output_ids", np.array([[self.answer]], np.int32))])
        import onnxruntime

        assert feed["lengths"].shape[1:] == (1,)  # one number a row of the batch; the configuration reshapes it away
        session = onnxruntime.InferenceSession(str(self.bundle / "triton" / "audio_tower" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
        return response([tensor("audio_embeds", session.run(None, feed | {"lengths": feed["lengths"][:, 0]})[0])])


def test_the_triton_model_hands_prompt_and_table_to_tensorrt_llm(made, monkeypatch):
    folder, reference = made[1] / "triton" / "nemo_desta" / "1", Reference.load(made[1] / FILE)
    (stop,) = read_manifest(made[1])["llm"]["stop_ids"]
    server = TritonServer(made[1], [72, 73, stop, stop])
    backend = server.modules()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.syspath_prepend(str(folder))
    assert "from nemo_desta" not in (folder / "model.py").read_text()
    module = types.ModuleType("triton_model")
    exec(compile((folder / "model.py").read_text(), "model.py", "exec"), module.__dict__)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(made[1] / "triton" / "nemo_desta")})

    number = next(i for i, p in enumerate(reference.prompts) if len(p.clips) == 2)
    prompt = reference.prompts[number]
    content = "<|AUDIO|>\n<|AUDIO|>\n\n" + ["What do you hear?", "Which language is spoken?", "Describe the sound."][number % 3]
    messages = [{"role": "system", "content": "Focus on the audio clips and instructions."}, {"role": "user", "content": content}]
    clips = [reference.clips[i] for i in prompt.clips]

    def ask(request, clips=()):
        inputs = [backend.Tensor("REQUEST", np.array([json.dumps(request).encode()], object))]
        if clips:
            inputs += [backend.Tensor("AUDIO", np.concatenate(clips)), backend.Tensor("AUDIO_LENGTHS", np.array([len(c) for c in clips], np.int32))]
        return model.execute([backend.InferenceRequest(inputs=inputs)])[0]

    answer = ask({"messages": messages, "transcripts": [f"clip {i}" for i in prompt.clips], "max_tokens": 9}, clips)
    assert answer.tensors["TEXT"].values[0].decode() == model.tokenizer.decode([72, 73])
    (_, heard), (_, said) = server.asked
    vocab = json.loads((made[1] / "llm" / "trtllm_ckpt" / "config.json").read_text())["vocab_size"]
    want = splice(prompt.input_ids, prompt.audio_spans, reference.embeds_CQH[list(prompt.clips)], vocab)
    assert len(heard["input_features"]) == 2 and said["input_ids"].tolist() == [want.input_ids.tolist()] and said["request_output_len"].tolist() == [[9]]
    np.testing.assert_allclose(said["prompt_embedding_table"][0], want.prompt_table, atol=1e-5)
    ids = said["prompt_table_extra_ids"]
    assert ids.dtype == np.uint64 and [bool(x) for x in ids[0]] == [bool(x) for x in want.extra_ids] and len(set(ids[0].tolist())) == 3
    assert said["end_id"].tolist() == [[stop]] and said["prompt_vocab_size"].tolist() == [[8]] and "stop_words_list" not in said

    server.asked.clear()
    ask({"messages": [{"role": "user", "content": "no sound"}]})
    assert [name for name, _ in server.asked] == ["tensorrt_llm"] and "prompt_embedding_table" not in server.asked[0][1]
    assert "locators" in str(ask({"messages": messages}).failure)  # clips are missing: this request's error, and no crash

    model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') if messages[0]['role'] == 'tool' }}" + model.tokenizer.chat_template
    hi = [{"role": "user", "content": "hi"}]
    malformed = {
        b"": "REQUEST must be one text of JSON",
        b"\xff{": "REQUEST must be one text of JSON",
        b"[" * 100_000: "REQUEST must be one text of JSON",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}': "REQUEST must be one text of JSON",
        b"[1]": r"must be a JSON object, it is \[1\]",
        b"null": "must be a JSON object, it is None",
        b"{}": "messages must be a list",
        b'{"messages": "hi"}': "messages must be a list",
        b'{"messages": [{"role": "user"}]}': "messages must be a list",
        b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}': "messages must be a list",
        b'{"messages": [{"role": "tool", "content": "x"}]}': "roles must alternate",
        json.dumps({"messages": hi, "transcripts": "x"}).encode(): "transcripts must be a list",
        json.dumps({"messages": hi, "transcripts": [3]}).encode(): "transcripts must be a list",
        json.dumps({"messages": hi, "transcripts": ["b <|im_end|>"]}).encode(): r"a transcript holds the special token '<\|im_end\|>'",
        json.dumps({"messages": hi, "max_tokens": None}).encode(): "max_tokens must be a whole number of at least 1, it is None",
        json.dumps({"messages": hi, "max_tokens": 0}).encode(): "it is 0",
    }
    good = backend.Tensor("REQUEST", np.array([json.dumps({"messages": hi}).encode()], object))
    inputs = [[backend.Tensor("REQUEST", np.array([raw], object))] for raw in malformed] + [[]]
    for samples, lengths in ((None, [9]), (np.zeros(9, np.float32), None), (np.zeros(9, np.float32), [8]), (np.zeros(9, np.float32), [-1, 10])):
        wrong = {"AUDIO": samples, "AUDIO_LENGTHS": lengths}
        inputs.append([good, *(backend.Tensor(name, np.array(values)) for name, values in wrong.items() if values is not None)])
    *failed, last = model.execute([backend.InferenceRequest(inputs=given) for given in [*inputs, [good]]])
    said = [*malformed.values(), "REQUEST must be one text of JSON", *["AUDIO_LENGTHS says"] * 4]
    for answer, message in zip(failed, said, strict=True):
        assert re.search(message, str(answer.failure)), (answer.failure, message)
    assert last.failure is None and last.tensors["TEXT"].values[0].decode() == model.tokenizer.decode([72, 73])  # the others' mistakes are not its own

    config = (made[1] / "triton" / "audio_tower" / "config.pbtxt").read_text()
    assert "dims: [ 80, -1 ]" in config and "TYPE_FP32 dims: [ 4, 64 ]" in config and "max_batch_size: 8" in config


# What is refused, before any long work.


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
