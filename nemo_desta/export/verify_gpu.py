"""The checks that need a GPU: engines run on the bundle's own clips and prompts, against what PyTorch said."""

import importlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nemo_desta.export.bundle import read_manifest
from nemo_desta.export.features import FeatureConfig, Features, graph_input
from nemo_desta.export.reference import FILE, Reference
from nemo_desta.export.runtime import AudioTower, OnnxDecoder
from nemo_desta.export.settings import Dtype
from nemo_desta.export.tensorrt_build import BACKENDS, is_installed
from nemo_desta.export.verify import LOGITS_LIMIT, Check, answers_check, decoder_check, relative, tower_check

logger = logging.getLogger(__name__)
CUDA = "CUDAExecutionProvider"
EXACT_CUDA = ((CUDA, {"use_tf32": "0"}),)  # by default ONNX Runtime rounds fp32 products to TF32
DEVICE = "cuda"
BATCHES = (1, 2, 3, 5)  # of the tower, as far as an engine's profile takes them
FOLDERS = {"rtx": "tensorrt_rtx", "trt": "tensorrt", ".": "tensorrt"}  # folder beside an ONNX file -> backend; build_trt.sh writes beside model.onnx
TRTLLM = "llm/trtllm_ckpt"


def gpu_checks(bundle: Path, trtllm_engine: Path | None = None) -> list[Check]:
    """Run the engines of tower and decoder, and TensorRT-LLM's if they were built: a row for every engine that the bundle holds, run or not.

    Args:
        bundle: exported.
        trtllm_engine: what ``build_engine.sh`` wrote.

    Raises:
        ValueError: there is no GPU, or nothing to run.
    """
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--gpu: PyTorch sees no CUDA device on this machine")
    settings = read_manifest(bundle)["settings"]
    reference, dtype = Reference.load(bundle / FILE), Dtype(settings["dtype"])
    checks = [_engine(bundle, engine, backend, reference, dtype, settings["limits"]) for engine, backend in engines_of(bundle)]
    checks = [replace(check, name=f"{check.name}, {torch.cuda.get_device_name()}") for check in checks]
    checks += onnx_checks(bundle, reference, dtype)
    if trtllm_engine is not None or (bundle / TRTLLM).is_dir():
        checks.append(_trtllm(bundle, trtllm_engine, reference))
    if not any(check.ok is not None for check in checks):
        raise ValueError(f"{bundle} holds no engine that can run here: export with targets=[tensorrt_rtx], or run audio/build_trt.sh on this machine")
    return checks


def validated(checks: Sequence[Check]) -> bool:
    """Whether every engine of the bundle ran here and was right. Without an engine nothing is validated, whatever ONNX Runtime said.

    Args:
        checks: of :func:`gpu_checks`.
    """
    return any("engine" in check.figures for check in checks) and all(check.ok for check in checks)


def engines_of(bundle: Path) -> list[tuple[Path, str]]:
    """The engines of TensorRT-RTX and TensorRT that a bundle holds, with their backends: the tower's, then the decoder's."""
    places = [(bundle / part / folder, backend) for part in ("audio", "llm/onnx") for folder, backend in FOLDERS.items()]
    return [(engine, backend) for place, backend in places for engine in sorted(place.glob("*.engine"))]


def onnx_checks(bundle: Path, reference: Reference, dtype: Dtype) -> list[Check]:
    """Tower and decoder through ONNX Runtime's CUDA provider, where it is installed."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers() or dtype is Dtype.bfloat16:
        return []
    checks = [attempt("audio tower, ONNX Runtime", lambda: tower_check(bundle, reference, dtype, BATCHES, providers=EXACT_CUDA))]
    if (bundle / "llm" / "onnx" / "model.onnx").is_file():
        checks.append(attempt("ONNX decoder from audio", lambda: decoder_check(bundle, reference, dtype, providers=EXACT_CUDA)))
    return [replace(check, name=f"{check.name}, CUDA") for check in checks]


def attempt(name: str, run: Callable[[], Check]) -> Check:
    """A check, failed if it raises: what breaks in one engine's libraries must not hide what the other engines say."""
    try:
        return run()
    except Exception as error:
        logger.warning("%s", name, exc_info=True)
        return Check(name, False, " ".join(f"{type(error).__name__}: {error}".split()), {})


def _engine(bundle: Path, engine: Path, backend: str, reference: Reference, dtype: Dtype, limits: Mapping[str, int]) -> Check:
    place = engine.relative_to(bundle).as_posix()

    def run() -> Check:
        if not is_installed(backend):
            return Check("", None, f"{backend} is not installed here", {})
        check = _audio if place.startswith("audio/") else _decoder
        return check(bundle, EngineRunner(engine, backend), reference, dtype, limits)

    check = attempt(place, run)
    return replace(check, name=f"engine {place}", figures={**check.figures, "engine": place})


def _audio(bundle: Path, runner: "EngineRunner", reference: Reference, dtype: Dtype, limits: Mapping[str, int]) -> Check:
    """The tower's vectors, in batches up to what its profile takes."""
    from nemo_desta.export.onnx_tower import compare

    most = limits["max_batch_size"] * limits["max_audios"]
    batches = sorted({min(size, most) for size in BATCHES})
    features, got, want = Features(FeatureConfig.load(bundle / "audio" / "preprocessor_config.json")), [], []
    for start, size in enumerate(batches):
        chosen = [(start + i) % len(reference.clips) for i in range(size)]
        values, lengths = features([reference.clips[i] for i in chosen])
        got.append(runner({"input_features": graph_input(values), "lengths": lengths})["audio_embeds"].float().numpy())
        want.append(reference.embeds_CQH[chosen])
    result = compare(got, want, _held_to(dtype), batches)
    detail = f"relative {result.relative:.1e}, largest {result.max_abs:.1e} at batches {', '.join(map(str, batches))}"
    return Check("", result.holds, detail, {"rel": result.relative, "max_abs": result.max_abs, "batch_sizes": batches})


def _decoder(bundle: Path, runner: "EngineRunner", reference: Reference, dtype: Dtype, limits: Mapping[str, int]) -> Check:
    """Logits and greedy answers from audio, and the step behind a past; the vectors are those of the ONNX tower."""
    prompt, answer = max(len(p.input_ids) for p in reference.prompts) + 1, max(map(len, reference.answers))
    if prompt > limits["max_input_len"] or prompt + answer > limits["max_seq_len"]:
        room = f"max_input_len={limits['max_input_len']} max_seq_len={limits['max_seq_len']}"
        return Check("", None, f"{room} have no room for the reference's prompts of {prompt} and answers of {answer} tokens", {})
    layers = json.loads((bundle / "llm" / "onnx" / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    decoder, audio_CQH, rows = OnnxDecoder(bundle, session=EngineSession(runner, layers)), AudioTower(bundle)(reference.clips), limits["max_batch_size"]
    check = answers_check("", decoder, audio_CQH, reference, _held_to(dtype), rows)
    step = _step_against_prompt(decoder, reference, audio_CQH, rows)
    holds = check.ok and step <= 2 * LOGITS_LIMIT[_held_to(dtype)]  # either side may be off by the limit
    return replace(check, ok=bool(holds), detail=f"{check.detail}, step behind a past relative {step:.1e}", figures={**check.figures, "step_rel": step})


def _step_against_prompt(decoder: OnnxDecoder, reference: Reference, audio_CQH: Any, rows: int) -> float:
    """How far the logits of one more token behind a past (the second profile) are from those of a prompt that ends with it (the first)."""
    embeds_BTH, mask_BT = decoder.embed(reference.prompts[:rows], audio_CQH)
    token_B1H = decoder.embedding_VH[[answer[0] for answer in reference.answers[:rows]]][:, None]
    longer_BT = np.concatenate([mask_BT, np.ones((len(mask_BT), 1), np.int64)], axis=1)
    stepped_BV, _ = decoder.step(token_B1H, longer_BT, decoder.step(embeds_BTH, mask_BT, None)[1])
    whole_BV, _ = decoder.step(np.concatenate([embeds_BTH, token_B1H], axis=1), longer_BT, None)
    return relative(stepped_BV, whole_BV)


def _held_to(dtype: Dtype) -> Dtype:
    """The format whose limits hold: an engine may order its sums otherwise (fp32 also in TF32), so fp32 is held to those of half precision."""
    return Dtype.float16 if dtype is Dtype.float32 else dtype


def _trtllm(bundle: Path, engine_dir: Path | None, reference: Reference) -> Check:
    name, figures = "TensorRT-LLM engine from audio", {"engine": TRTLLM}
    if engine_dir is None:
        return Check(name, None, f"no engine was named (--trtllm-engine); {TRTLLM}/build_engine.sh builds one", figures)

    def run() -> Check:
        from nemo_desta.export.trtllm_runner import TrtLlmRunner

        longest = max(map(len, reference.answers))
        got = TrtLlmRunner(bundle, engine_dir).generate(reference.prompts, reference.clips, max_new_tokens=longest)
        equal = sum(g == w for g, w in zip(got, reference.answers, strict=True))
        first = sum(g[:1] == w[:1] for g, w in zip(got, reference.answers, strict=True))
        detail = f"greedy answers equal {equal} of {len(got)}, first tokens equal {first}"
        return Check(name, first == len(got), detail, {"answers_equal": equal, "first_equal": first, "answers": len(got)})

    check = attempt(name, run)
    return replace(check, figures={**check.figures, **figures})


class EngineRunner:
    """A TensorRT or TensorRT-RTX engine with PyTorch's memory.

    Args:
        engine: file.
        backend: it was built with.

    Raises:
        ValueError: it cannot be loaded on this GPU.
    """

    def __init__(self, engine: Path, backend: str) -> None:
        trt = [importlib.import_module(name) for name in BACKENDS[backend]][-1]
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise ValueError(f"{engine} cannot be loaded on this GPU: was it built for its compute capability and this {backend}?")
        self._context = self._engine.create_execution_context()
        self._profile = 0
        self._names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._kinds = {name: str(self._engine.get_tensor_dtype(name)).rsplit(".", 1)[-1].lower() for name in self._names}

    def __call__(self, feed: Mapping[str, Any], profile: int = 0) -> dict[str, Any]:
        """Run once.

        Args:
            feed: NumPy arrays of the inputs; what the engine has no input for is left aside.
            profile: number of the optimisation profile.

        Returns:
            The outputs as tensors in CPU memory.

        Raises:
            ValueError: the profile does not take a shape.
            RuntimeError: the engine fails.
        """
        import torch

        kinds = {"float": torch.float32, "half": torch.float16, "bf16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32}
        stream = torch.cuda.Stream()
        self._choose(profile, stream)
        held = {name: torch.from_numpy(np.ascontiguousarray(feed[name])).to(DEVICE) for name in self._names if name in feed}
        for name, tensor in held.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise ValueError(f"profile {profile} of the engine takes no {name} of shape {tuple(tensor.shape)}: export with larger limits")
        outputs = [name for name in self._names if name not in held]
        held |= {name: torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kinds[self._kinds[name]], device=DEVICE) for name in outputs}
        somewhere = torch.empty(1, device=DEVICE)  # an empty tensor has no address, and TensorRT wants one of every tensor
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr() or somewhere.data_ptr())
        stream.wait_stream(torch.cuda.current_stream())  # which copies the inputs
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine failed to run")
        stream.synchronize()
        return {name: held[name].cpu() for name in outputs}

    def _choose(self, profile: int, stream: Any) -> None:
        if profile == self._profile:
            return
        if not self._context.set_optimization_profile_async(profile, stream.cuda_stream):
            raise RuntimeError(f"the engine has no profile {profile}")
        stream.synchronize()
        self._profile = profile


class EngineSession:
    """A decoder's engine in the place of ONNX Runtime's session: the prompt runs in the first of :func:`tensorrt_build.decoder_profiles`, a step in the second.

    Args:
        runner: of the engine.
        layers: of the LLM.
    """

    def __init__(self, runner: EngineRunner, layers: int) -> None:
        from nemo_desta.export.onnx_decoder import cache_names

        self.runner = runner
        self.inputs = ["inputs_embeds", "attention_mask", "position_ids", *cache_names(layers, "past")]
        self.outputs = ["logits", *cache_names(layers, "present")]

    def get_inputs(self) -> list[Any]:
        """As of ONNX Runtime's session."""
        return [SimpleNamespace(name=name) for name in self.inputs]

    def run(self, names: None, feed: Mapping[str, Any]) -> list[Any]:
        """As of ONNX Runtime's session: all outputs as NumPy arrays."""
        said = self.runner(feed, profile=int(feed["past.0.key"].shape[2] > 0))
        return [said[name].numpy() for name in self.outputs]
