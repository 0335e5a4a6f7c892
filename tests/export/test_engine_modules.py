"""The modules that run inside TensorRT-LLM's PyTorch backend and inside Triton, with stand-ins for these."""

import importlib
import json
import re
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

from nemo_desta.export.bundle import read_manifest
from nemo_desta.export.reference import FILE, Reference
from nemo_desta.export.splice import splice

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
