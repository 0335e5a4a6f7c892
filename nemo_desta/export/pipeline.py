"""The export from checkpoint to bundle: checks, parts, parity, manifest."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nemo_desta.data.conversation import AUDIO_LOCATOR, END_AUDIO, NO_TRANSCRIPT, START_AUDIO, TEMPLATE_DATE
from nemo_desta.export import triton_parts, trtllm_parts, vllm_parts
from nemo_desta.export.audio_tower import TowerContract, tower_of
from nemo_desta.export.bundle import BundleWriter, claimed, require_space, staged_bundle, unchanged_parts, write_manifest
from nemo_desta.export.features import FeatureConfig
from nemo_desta.export.hf_checkpoint import write_hf
from nemo_desta.export.keys import PartKeys
from nemo_desta.export.onnx_decoder import export_decoder
from nemo_desta.export.onnx_tower import export_tower, require_exporter
from nemo_desta.export.reference import FILE, make_reference
from nemo_desta.export.settings import QUANTISED, CalibrationConfig, Dtype, ExportConfig, Target
from nemo_desta.export.sizes import part_sizes
from nemo_desta.export.source import Source, load_clips, merge_lora, open_source
from nemo_desta.export.tensorrt_build import build_in_process, decoder_profiles, require_backend, tower_profiles, trtexec_script
from nemo_desta.export.trtllm_checkpoint import LlmShape
from nemo_desta.export.verify import as_manifest, parity
from nemo_desta.provenance import library_versions, plain
from nemo_desta.provenance import manifest as provenance

logger = logging.getLogger(__name__)
ENGINE_LIBRARIES = ("onnx", "onnxscript", "onnxruntime", "tensorrt-rtx-cu13-bindings", "tensorrt", "nvidia-modelopt")


def export(cfg: ExportConfig) -> dict[str, Any]:
    """Write a bundle.

    Args:
        cfg: what to export and where to.

    Returns:
        The bundle's manifest.

    Raises:
        ValueError: settings and checkpoint do not fit or another process writes the bundle (before any long work), or a part does not say what
            PyTorch says; nothing is written then.
        OSError: the disk is full or not writable; nothing is left of the new bundle.
    """
    check_targets(cfg)
    output = Path(cfg.output).resolve()  # one lock for all names of a place; a link's target is replaced, not the link
    with claimed(output):
        return _export(cfg, output)


def _export(cfg: ExportConfig, output: Path) -> dict[str, Any]:
    source = open_source(cfg)
    keys = PartKeys(cfg, source)
    sizes = part_sizes(source, cfg)
    kept = unchanged_parts(output, {name: getattr(keys, name) for name in ("audio", "onnx_decoder", "trtllm", "hf")})
    require_space(output, sum(size for name, size in sizes.items() if name not in kept))
    clips, clips_from = load_clips(cfg.clips, cfg.parity_clips)
    model = source.load()
    llm = merge_lora(model)
    with staged_bundle(output) as writer:
        exporter = _Exporter(keys, model, llm, writer)
        exporter.add_reference(clips)
        exporter.add_audio()
        for target in Target:
            if target in cfg.targets and target in exporter.steps:
                exporter.steps[target]()
        checks = parity(writer.root, plain(cfg), cfg.parity_batches, staged=True)
        for check in checks:
            logger.info("%s: %s", check.name, check.detail)
        broken = [f"{check.name} ({check.detail})" for check in checks if check.ok is False]
        if broken:
            raise ValueError(f"the exported model does not say what the PyTorch model says: {'; '.join(broken)}. Nothing was written; try dtype=float32")
        content = exporter.manifest(clips_from) | {"parity": as_manifest(checks), "gpu_validated": False}
        write_manifest(writer.root, content)
    return content


def check_targets(cfg: ExportConfig) -> None:
    """Refuse settings that contradict each other or need packages that are missing.

    Raises:
        ValueError: names them.
    """
    if not cfg.targets:
        raise ValueError(f"targets is empty: choose from {', '.join(Target)}")
    require_exporter()
    for target in (Target.tensorrt_rtx, Target.tensorrt):
        if target in cfg.targets:
            require_backend(target.value)
    if Target.onnx_decoder in cfg.targets and cfg.dtype is Dtype.bfloat16:
        raise ValueError("targets has onnx_decoder, which has no bfloat16: choose dtype=float16 or float32, or leave onnx_decoder out")
    if Target.triton in cfg.targets and (Target.trtllm not in cfg.targets or cfg.dtype is Dtype.bfloat16):
        raise ValueError("targets has triton, which serves the part trtllm in float16 or float32: add trtllm to the targets, and choose one of these types")
    if (cfg.tp, cfg.pp) != (1, 1) and not {Target.trtllm, Target.trtllm_pytorch} & set(cfg.targets):
        raise ValueError(f"tp={cfg.tp} pp={cfg.pp} split a TensorRT-LLM checkpoint, and targets has none: add trtllm, or leave tp and pp at 1")
    if Target.vllm in cfg.targets and cfg.quantization is not None:
        raise ValueError(f"targets has vllm, which takes no quantization={cfg.quantization.value}: leave one of them out")
    if cfg.quantization is not None and not set(QUANTISED) & set(cfg.targets):
        raise ValueError(f"quantization={cfg.quantization.value} quantises {', '.join(QUANTISED)}, and targets has none: add one, or leave quantization out")
    if cfg.quantization is not None:
        from nemo_desta.export.quantize import require_modelopt

        require_modelopt()
        check_calibration(cfg.calibration)
    if cfg.parity_clips < 1:
        raise ValueError(f"parity_clips={cfg.parity_clips}: give at least 1")
    if not cfg.parity_batches or min(cfg.parity_batches) < 1:
        raise ValueError(f"parity_batches={cfg.parity_batches}: give batch sizes of at least 1")


def check_calibration(settings: CalibrationConfig) -> None:
    """Refuse files that are not there before hours of work end at them.

    Raises:
        ValueError: names the file.
    """
    files = [] if settings.targets is None else [("targets", Path(settings.targets))]
    if settings.corpus is not None:
        files += [("corpus", Path(settings.corpus) / f"cuts_{split}.jsonl.gz") for split in ("test", "train")]  # the questions know the answers of both
    for name, path in files:
        if not path.is_file():
            raise ValueError(f"calibration.{name}: there is no {path}")


class _Exporter:
    """The parts of a bundle; each method adds one."""

    def __init__(self, keys: PartKeys, model: Any, llm: nn.Module, writer: BundleWriter) -> None:
        self.keys, self.cfg, self.source = keys, keys.cfg, keys.source
        self.model, self.llm, self.writer = model, llm, writer
        self.root = writer.root
        self.tower, self.contract = tower_of(model.perception)
        self.steps: dict[Target, Callable[[], None]] = {
            Target.onnx_decoder: self.add_decoder,
            Target.tensorrt_rtx: lambda: self.add_engines("tensorrt_rtx", "rtx"),
            Target.tensorrt: lambda: self.add_engines("tensorrt", "trt"),
            Target.trtllm: self.add_trtllm,
            Target.hf: self.add_hf,
            Target.trtllm_pytorch: self.add_trtllm_pytorch,
            Target.triton: self.add_triton,
            Target.vllm: self.add_vllm,
        }

    def add_reference(self, clips: Any) -> None:
        """What PyTorch says."""

        def make() -> dict[str, Any]:
            make_reference(self.model, clips).save(self.root / FILE)
            return {}

        key = self.keys.of(clips=[_hash_of(clip) for clip in clips], llm_dtype=str(self.model.backbone.dtype))
        key.pop("dtype")  # PyTorch answers in a format of its own
        self.writer.part("reference", key, make)

    def add_audio(self) -> None:
        """The tower as ONNX with its configuration."""

        def make() -> dict[str, Any]:
            folder = self.root / "audio"
            folder.mkdir()
            report = export_tower(self.tower, self.contract, folder / "model.onnx", self.cfg.dtype)
            _write_json(folder / "config.json", self.audio_card())
            _write_json(folder / "preprocessor_config.json", feature_config(self.model.perception.encoder, self.contract).to_json())
            script = folder / "build_trt.sh"
            script.write_text(trtexec_script(self._tower_profiles()), encoding="utf-8")
            script.chmod(0o755)
            return {"onnx": asdict(report)}

        self.writer.part("audio", self.keys.audio(), make)

    def add_decoder(self) -> None:
        """The LLM with its KV cache as ONNX."""

        def make() -> dict[str, Any]:
            folder = self.root / "llm" / "onnx"
            folder.mkdir(parents=True)
            return {"onnx": asdict(export_decoder(self.llm, folder, self.cfg.dtype))}

        self.writer.part("onnx_decoder", self.keys.onnx_decoder(), make)

    def add_engines(self, backend: str, folder: str) -> None:
        """TensorRT engines of the ONNX files."""
        capabilities = self.cfg.compute_capabilities if backend == "tensorrt_rtx" else []
        name = "+".join(c.lower() for c in capabilities)
        jobs = {self.root / "audio": self._tower_profiles()}
        if Target.onnx_decoder in self.cfg.targets:
            card = json.loads((self.root / "llm" / "onnx" / "config.json").read_text(encoding="utf-8"))
            limits = self.cfg.limits
            jobs[self.root / "llm" / "onnx"] = decoder_profiles(card, limits.max_batch_size, limits.max_input_len, limits.max_seq_len)
        for place, profiles in jobs.items():

            def make(place: Path = place, profiles: Any = profiles) -> dict[str, Any]:
                (place / folder).mkdir()
                engine = place / folder / f"model{'.' + name if name else ''}.engine"
                report = build_in_process(place / "model.onnx", engine, profiles, backend, capabilities)
                logger.info("%s: %.1f MB, %.1f s, peak memory %.2f GB", engine.name, report.bytes / 1e6, report.seconds, report.peak_bytes / 1e9)
                return {"engine": asdict(report)}

            versions = library_versions(ENGINE_LIBRARIES)
            self.writer.part(f"{backend}:{place.relative_to(self.root)}", self.keys.of(versions=versions, profiles=plain(profiles), to=capabilities), make)

    def add_trtllm(self) -> None:
        """The checkpoint for trtllm-build."""
        folder = self.root / "llm" / "trtllm_ckpt"
        self.writer.part("trtllm", self.keys.trtllm(), lambda: trtllm_parts.write_engine_flow(folder, self.cfg, self.source, self.model))

    def add_hf(self) -> None:
        """The LLM for any Hugging Face engine (also the weights of the PyTorch backend's model)."""
        if "hf" in self.writer.parts:
            return

        def make() -> dict[str, Any]:
            folder = self.root / "llm" / "hf"
            folder.mkdir(parents=True)
            if self.cfg.quantization is not None:
                from nemo_desta.export.quantize import write_quantised_hf

                return write_quantised_hf(self.model, self.source, self.cfg, folder)
            generation = self._generation()
            weights = self.source.llm_weights(self.model)
            return {"files_of_weights": write_hf(weights, self.source.llm_raw, self.model.tokenizer, folder, self.cfg.dtype, generation=generation)}

        self.writer.part("hf", self.keys.hf(), make)

    def add_trtllm_pytorch(self) -> None:
        """The out-of-tree module with its model directory, whose weights are those of ``llm/hf``."""
        self.add_hf()
        key = self.keys.of(quantization=self.cfg.quantization, hf=self.writer.parts["hf"]["key"], module=trtllm_parts.module_files())
        self.writer.part("trtllm_pytorch", key, lambda: trtllm_parts.write_pytorch_flow(self.root, self.audio_card()))

    def add_triton(self) -> None:
        """A model repository for Triton; it reads tokenizer and configurations of the other parts."""
        self.add_hf()
        requests = self.cfg.limits.max_batch_size
        key = self.keys.of(audio=self.writer.parts["audio"]["key"], requests=requests, model=triton_parts.model_files())
        self.writer.part("triton", key, lambda: triton_parts.write_triton(self.root, self.audio_card(), self.cfg.dtype, requests))

    def add_vllm(self) -> None:
        """The whole model for vLLM, whose LLM's weights are those of ``llm/hf``."""
        self.add_hf()
        key = self.keys.of(hf=self.writer.parts["hf"]["key"], card=self.audio_card(), transcriber=self.cfg.transcriber, system=vllm_parts.SYSTEM_PROMPT)
        key |= {"template": vllm_parts.template_hash()}
        write = partial(vllm_parts.write_vllm, dtype=self.cfg.dtype, transcriber=self.cfg.transcriber)
        self.writer.part("vllm", key, lambda: write(self.root, self.audio_card(), self.source, self.model))

    def audio_card(self) -> dict[str, Any]:
        """The contract of the tower and of the prompt: ``audio/config.json``."""
        tokenizer, layout = self.model.tokenizer, self.model.layout
        (placeholder,) = tokenizer(layout.placeholder_token, add_special_tokens=False)["input_ids"]
        return {
            **asdict(self.contract),
            "sample_rate": 16_000,
            "dtype": self.cfg.dtype.value,
            "max_audios": self.cfg.limits.max_audios,
            "placeholder_token": layout.placeholder_token,
            "placeholder_id": placeholder,
            "audio_locator": AUDIO_LOCATOR,
            "layout": f"{START_AUDIO}, {layout.num_queries} query slots, transcript ({NO_TRANSCRIPT!r} where there is none), {END_AUDIO}",
            "template_date": TEMPLATE_DATE,
        }

    def manifest(self, clips_from: str) -> dict[str, Any]:
        """All but the parity figures."""
        shape = {k: self.source.llm_raw.get(k) for k in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")}
        card = self.audio_card()
        prompt_keys = ("placeholder_token", "placeholder_id", "audio_locator", "layout", "template_date")
        settings = plain(self.cfg) | {"output": None}
        return {
            **provenance(settings, {}, settings=settings, source=self.keys.hashes, reference_clips=clips_from),
            "engine_versions": library_versions(ENGINE_LIBRARIES),
            "names": {"llm": _public(self.source.card.llm_model_id), "encoder": _public(self.source.card.encoder_model_id)},
            "audio": {k: v for k, v in card.items() if k not in prompt_keys},
            "prompt": {k: card[k] for k in prompt_keys},
            "llm": {**shape, "stop_ids": self._stops()},
            "targets_built": [t.value for t in Target if t in self.cfg.targets],
            "parts": self.writer.parts,
        }

    def _tower_profiles(self) -> Any:
        return tower_profiles(asdict(self.contract), self.cfg.limits.max_batch_size * self.cfg.limits.max_audios)

    def _generation(self) -> Mapping[str, Any]:
        config: Any = self.llm.generation_config
        generation: Mapping[str, Any] = config.to_diff_dict()
        return generation

    def _stops(self) -> list[int]:
        stops = self._generation().get("eos_token_id", self.model.tokenizer.eos_token_id)
        return [stops] if isinstance(stops, int) else list(stops)


def feature_config(encoder: Any, contract: TowerContract) -> FeatureConfig:
    """Parameters of the NumPy front end that gives an encoder its features.

    Raises:
        ValueError: a NeMo preprocessor with settings that the NumPy front end lacks.
    """
    if contract.encoder == "whisper":
        return FeatureConfig(num_mels=contract.num_mels, max_frames=contract.max_frames, pad_to_max=contract.fixed_frames)
    featurizer = encoder.featurizer.preprocessor.featurizer
    wanted = {"normalize": "per_feature", "mag_power": 2.0, "log": True, "exact_pad": False, "frame_splicing": 1, "log_zero_guard_type": "add"}
    for name, value in wanted.items():
        if getattr(featurizer, name) != value:
            raise ValueError(f"the encoder's preprocessor has {name}={getattr(featurizer, name)!r}; the exported front end computes {name}={value!r} only")
    return FeatureConfig(
        kind="nemo",
        num_mels=contract.num_mels,
        n_fft=featurizer.n_fft,
        win_length=featurizer.win_length,
        hop_length=featurizer.hop_length,
        max_frames=contract.max_frames,
        preemphasis=float(featurizer.preemph or 0.0),
        log_guard=float(featurizer.log_zero_guard_value_fn(0) if callable(featurizer.log_zero_guard_value_fn) else featurizer.log_zero_guard_value),
    )


def shape_of(source: Source) -> LlmShape:
    """Sizes of a source's LLM."""
    return LlmShape.from_config(source.llm_raw)


def _public(name: str) -> str:
    """A model's name without the directories of this machine."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _hash_of(clip: Any) -> str:
    import hashlib

    return hashlib.sha256(clip.tobytes()).hexdigest()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
