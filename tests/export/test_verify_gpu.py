"""The checks on a GPU with a stand-in for TensorRT: engines of tower and decoder run by ONNX Runtime on a CPU, within the shapes of their profiles."""

import ctypes
import json
import shutil
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install 'nemo_desta[export]'")

import onnxruntime

from nemo_desta.export import verify_gpu
from nemo_desta.export.bundle import read_manifest, write_manifest
from nemo_desta.export.settings import LimitsConfig
from nemo_desta.export.tensorrt_build import decoder_profiles, tower_profiles
from nemo_desta.export.verify import Check
from nemo_desta.provenance import plain
from tools import verify_bundle

KINDS = {"tensor(float)": ("FLOAT", np.float32), "tensor(int64)": ("INT64", np.int64)}
LIMITS = LimitsConfig(max_batch_size=3, max_audios=2, max_input_len=512, max_seq_len=600)


class Engine:
    """What ``Runtime.deserialize_cuda_engine`` gives: an ONNX file with profiles, and what is wrong with it (``fails``, or logits ``off`` in a profile)."""

    def __init__(self, plan):
        self.__dict__.update(json.loads(plan))
        self.session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        self.inputs = {x.name: x for x in self.session.get_inputs()}
        self.names = [*self.inputs, *(x.name for x in self.session.get_outputs())]
        self.kinds = {x.name: KINDS[x.type] for x in [*self.session.get_inputs(), *self.session.get_outputs()]}
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return f"DataType.{self.kinds[name][0]}"

    def create_execution_context(self):
        return Context(self)


class Context:
    """Of an engine; as TensorRT's it takes shapes of the chosen profile alone, and an address of every tensor."""

    def __init__(self, engine):
        self.engine, self.profile, self.shapes, self.addresses = engine, 0, {}, {}

    def set_optimization_profile_async(self, profile, stream):
        self.profile, self.shapes = profile, {}
        return profile < len(self.engine.profiles)

    def set_input_shape(self, name, shape):
        least, _, largest = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))

    def get_tensor_shape(self, name):
        if name == "audio_embeds":
            return (self.shapes["input_features"][0], *self.engine.vectors)
        rows, new, _ = self.shapes["inputs_embeds"]
        if name == "logits":
            return rows, 1, self.engine.vocabulary
        _, heads, past, width = self.shapes[name.replace("present", "past")]
        return rows, heads, past + new, width

    def set_tensor_address(self, name, address):
        assert address, f"{name} has no address"
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        if self.engine.fails:
            return False
        assert set(self.addresses) == set(self.engine.names) and set(self.shapes) == set(self.engine.inputs)
        feed = {}
        for name, shape in self.shapes.items():
            feed[name] = np.empty(shape, self.engine.kinds[name][1])
            ctypes.memmove(feed[name].ctypes.data, self.addresses[name], feed[name].nbytes)
        for name, value in zip(self.engine.names[len(feed) :], self.engine.session.run(None, feed), strict=True):
            assert value.shape == tuple(self.get_tensor_shape(name))
            value = value + 1 if self.engine.off == self.profile and name in ("logits", "audio_embeds") else value
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True


@pytest.fixture
def card(monkeypatch):
    """A machine with a card, both backends, and no CUDA provider of ONNX Runtime."""
    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    trt = types.SimpleNamespace(Logger=logger, Runtime=lambda log: types.SimpleNamespace(deserialize_cuda_engine=Engine))
    for name in ("tensorrt", "tensorrt_rtx_libs", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, trt)
    stream = types.SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None, synchronize=lambda: None)
    for name, value in {"is_available": True, "get_device_name": "Card 9000", "Stream": stream, "current_stream": stream}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(verify_gpu, "is_installed", lambda backend: True)
    monkeypatch.setattr(verify_gpu, "DEVICE", "cpu")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy of the bundle without its TensorRT-LLM checkpoint, for limits of its own."""
    folder = shutil.copytree(made[1], tmp_path / "bundle")
    shutil.rmtree(folder / "llm" / "trtllm_ckpt")
    limit(folder, LIMITS)
    return folder


def limit(bundle, limits):
    manifest = read_manifest(bundle)
    manifest["settings"]["limits"] = plain(limits)
    write_manifest(bundle, {key: value for key, value in manifest.items() if key != "schema_version"})


def build(bundle, part, folder, limits=LIMITS, *, fails=False, off=None):
    """A stand-in for an engine."""
    card = json.loads((bundle / part / "config.json").read_text())
    tower = part == "audio"
    requests, total = limits.max_batch_size, limits.max_seq_len
    profiles = tower_profiles(card, requests * limits.max_audios) if tower else decoder_profiles(card, requests, limits.max_input_len, total)
    sizes = {"vectors": [card["num_queries"], card["hidden_size"]]} if tower else {"vocabulary": card["vocab_size"]}
    plan = {"onnx": str(bundle / part / "model.onnx"), "profiles": profiles, "fails": fails, "off": off, **sizes}
    (bundle / part / folder).mkdir(exist_ok=True)
    (bundle / part / folder / "model.engine").write_text(json.dumps(plan))


def rows(checks):
    return {check.name.removesuffix(", Card 9000"): (check.ok, check.detail) for check in checks}


def said(bundle):
    """(rows, gpu_validated in the manifest)"""
    checks = verify_bundle._gpu_checks(bundle, None)
    return rows(checks), read_manifest(bundle)["gpu_validated"]


def test_the_engines_of_tower_and_decoder_run_and_are_right(card, bundle):
    for part, folder in (("audio", "rtx"), ("audio", "."), ("llm/onnx", "rtx"), ("llm/onnx", "trt")):
        build(bundle, part, folder)
    checks, validated = said(bundle)
    names = ["engine audio/rtx/model.engine", "engine audio/model.engine", "engine llm/onnx/rtx/model.engine", "engine llm/onnx/trt/model.engine"]
    assert [(name, ok) for name, (ok, _) in checks.items()] == [(name, True) for name in names] and validated
    assert "at batches 1, 2, 3, 5" in checks[names[0]][1] and "greedy answers equal 7 of 7" in checks[names[2]][1] and "behind a past" in checks[names[2]][1]
    assert read_manifest(bundle)["parity_gpu"]["engine audio/model.engine, Card 9000"]["engine"] == "audio/model.engine"


@pytest.mark.parametrize(("requests", "clips", "batches"), [(1, 2, "1, 2"), (4, 1, "1, 2, 3, 4"), (1, 1, "1")])
def test_batches_end_where_the_profiles_end(card, bundle, requests, clips, batches):
    limits = replace(LIMITS, max_batch_size=requests, max_audios=clips)
    limit(bundle, limits)
    build(bundle, "audio", "rtx", limits)
    build(bundle, "llm/onnx", "rtx", limits)
    checks, validated = said(bundle)
    assert validated and checks["engine audio/rtx/model.engine"][1].endswith(f"at batches {batches}")


def test_prompts_that_the_limits_have_no_room_for_are_not_run(card, bundle):
    limits = replace(LIMITS, max_input_len=16)
    limit(bundle, limits)
    build(bundle, "audio", "rtx", limits)
    build(bundle, "llm/onnx", "rtx", limits)
    checks, validated = said(bundle)
    assert [ok for ok, _ in checks.values()] == [True, None] and "max_input_len=16" in checks["engine llm/onnx/rtx/model.engine"][1] and not validated


@pytest.mark.parametrize("profile", [0, 1])
def test_a_decoder_that_is_off_in_one_of_its_profiles_is_seen(card, bundle, profile):
    build(bundle, "audio", "rtx")
    build(bundle, "llm/onnx", "rtx", off=profile)
    checks, validated = said(bundle)
    assert [ok for ok, _ in checks.values()] == [True, False] and not validated


def test_an_engine_that_breaks_fails_alone(card, bundle):
    build(bundle, "audio", "rtx", fails=True)
    build(bundle, "audio", "trt", off=0)
    build(bundle, "audio", ".")
    build(bundle, "llm/onnx", "rtx", replace(LIMITS, max_batch_size=2))  # built for less than the manifest says
    (bundle / "llm" / "onnx" / "model.engine").write_text("cut off")
    checks, validated = said(bundle)
    assert {name: ok for name, (ok, _) in checks.items()} == {
        "engine audio/rtx/model.engine": False,
        "engine audio/trt/model.engine": False,
        "engine audio/model.engine": True,
        "engine llm/onnx/rtx/model.engine": False,
        "engine llm/onnx/model.engine": False,
    }
    assert checks["engine audio/rtx/model.engine"][1] == "RuntimeError: the engine failed to run" and not validated
    assert "profile 0 of the engine takes no inputs_embeds of shape (3, " in checks["engine llm/onnx/rtx/model.engine"][1]


def test_nothing_is_validated_without_every_engine(card, bundle, made, monkeypatch):
    with pytest.raises(ValueError, match="holds no engine that can run here"):
        verify_gpu.gpu_checks(bundle)
    monkeypatch.setattr(verify_gpu, "CUDA", "CPUExecutionProvider")  # ONNX Runtime alone
    monkeypatch.setattr(verify_gpu, "EXACT_CUDA", ("CPUExecutionProvider",))
    checks, validated = said(bundle)
    assert [ok for ok, _ in checks.values()] == [True, True] and not validated
    build(bundle, "audio", "rtx")
    assert said(bundle)[1]
    shutil.copytree(made[1] / "llm" / "trtllm_ckpt", bundle / "llm" / "trtllm_ckpt")
    checks, validated = said(bundle)
    assert checks["TensorRT-LLM engine from audio"][0] is None and "--trtllm-engine" in checks["TensorRT-LLM engine from audio"][1] and not validated
    monkeypatch.setattr(verify_gpu, "is_installed", lambda backend: False)
    shutil.rmtree(bundle / "llm" / "trtllm_ckpt")
    checks, validated = said(bundle)
    assert checks["engine audio/rtx/model.engine"] == (None, "tensorrt_rtx is not installed here") and not validated


def test_the_tool_prints_what_holds_beside_what_fails(card, made, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(made[1], tmp_path / "bundle")
    monkeypatch.setattr(verify_gpu, "engines_of", lambda bundle: [])
    monkeypatch.setattr(verify_gpu, "CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(verify_gpu, "tower_check", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("out of\nmemory")))
    monkeypatch.setattr(verify_gpu, "decoder_check", lambda *a, **k: Check("ONNX decoder from audio", True, "equal", {}))
    assert verify_bundle.main([str(folder), "--gpu", "--trtllm-engine", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("ok  ") == 6 and "FAILED       audio tower, ONNX Runtime, CUDA: RuntimeError: out of memory\n" in out
    assert "FAILED       TensorRT-LLM engine from audio: ValueError: running engines needs TensorRT-LLM" in out
    assert read_manifest(folder)["gpu_validated"] is False
