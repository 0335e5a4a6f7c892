"""The out-of-tree model for TensorRT-LLM's PyTorch backend (1.2; 1.3 where its interfaces are the same).

An export copies this file, with the two it imports, into ``trtllm_pytorch/nemo_desta_trtllm``; there it needs NumPy, onnxruntime and TensorRT-LLM::

    trtllm-serve BUNDLE/trtllm_pytorch/model --custom_module_dirs BUNDLE/trtllm_pytorch/nemo_desta_trtllm

Audio is encoded by the bundle's ONNX tower in the input processor, or comes as ready vectors (``multi_modal_embeddings``); the model itself only puts
the vectors into their slots. Clips have no transcript unless the request brings one (``mm_processor_kwargs={"transcripts": [...]}``).
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_llm
import torch
from tensorrt_llm._torch.models.modeling_auto import AutoModelForCausalLM
from tensorrt_llm._torch.models.modeling_multimodal_utils import fuse_input_embeds, get_multimodal_embeddings
from tensorrt_llm._torch.models.modeling_utils import register_auto_model
from tensorrt_llm.inputs import BaseMultimodalInputProcessor, MultimodalPlaceholderMetadata, MultimodalPlaceholderPlacement, register_input_processor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from nemo_desta.data.conversation import AUDIO_LOCATOR, AudioLayout, check_words, render_chat_text, transcript_ids
from nemo_desta.export.features import SAMPLE_RATE, FeatureConfig, Features, graph_input

MODEL_TYPE = "nemo_desta"
FIRST_VERSION, TESTED_VERSION = (1, 2), (1, 3)


def check_version(version: str) -> None:
    """Refuse a TensorRT-LLM whose interfaces are others.

    Raises:
        RuntimeError: it is older than 1.2, or newer than 1.3.
    """
    found = tuple(int(part) for part in version.split(".")[:2])
    if not FIRST_VERSION <= found <= TESTED_VERSION:
        raise RuntimeError(f"nemo_desta_trtllm is written for TensorRT-LLM 1.2 and 1.3, not {version}")


check_version(tensorrt_llm.__version__)
try:  # moved and renamed between releases; without it every request's vectors are taken as they come
    from tensorrt_llm._torch.models.modeling_multimodal_utils import find_input_mm_embeds
except ImportError:
    find_input_mm_embeds = None


class NemoDestaConfig(PretrainedConfig):
    """``config.json`` of an exported model: the LLM's own below ``text_config``."""

    model_type = MODEL_TYPE

    def __init__(self, text_config: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        raw = dict(text_config or {})
        self.text_config = AutoConfig.for_model(raw.pop("model_type", "llama"), **raw)
        super().__init__(**kwargs)


AutoConfig.register(MODEL_TYPE, NemoDestaConfig, exist_ok=True)


class _Tower:
    """The ONNX audio tower beside the model; on the GPU where onnxruntime-gpu is installed."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=providers)
        self.features = Features(FeatureConfig.load(folder / "preprocessor_config.json"))
        self.inputs = [x.name for x in self.session.get_inputs()]

    def __call__(self, clips: Sequence[np.ndarray]) -> torch.Tensor:
        features, lengths = self.features(clips)
        feed = {"input_features": graph_input(features), "lengths": lengths}
        return torch.from_numpy(self.session.run(None, {name: feed[name] for name in self.inputs})[0])


class NemoDestaInputProcessor(BaseMultimodalInputProcessor):  # type: ignore[misc]
    """Prompt and clips to token ids and vectors."""

    def __init__(self, model_path: str, config: Any, tokenizer: Any, trust_remote_code: bool = True, **kwargs: Any) -> None:
        try:
            super().__init__(model_path=model_path, config=config, tokenizer=tokenizer, trust_remote_code=trust_remote_code, **kwargs)
        except TypeError:  # releases whose base class keeps nothing itself
            super().__init__()
        self._own_config, self._own_tokenizer, self._folder = config, tokenizer, Path(model_path)
        card = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))["nemo_desta"]
        self.layout = AudioLayout(card["placeholder_token"], card["num_queries"], None)
        self.sentinel: int = config.text_config.vocab_size + 1  # what TensorRT-LLM takes for "not a token": any id outside the vocabulary
        self._tower: _Tower | None = None

    @property
    def processor(self) -> Any:
        return self

    @property
    def tokenizer(self) -> Any:
        return self._own_tokenizer

    @property
    def config(self) -> Any:
        return self._own_config

    @property
    def dtype(self) -> torch.dtype:
        text = self._own_config.text_config
        kind = getattr(text, "dtype", None) or getattr(text, "torch_dtype", None) or torch.float16
        return kind if isinstance(kind, torch.dtype) else getattr(torch, kind)

    def get_vocab_size(self) -> int:
        """Of the LLM."""
        return int(self._own_config.text_config.vocab_size)

    def get_num_tokens_per_audio(self, **_: Any) -> int:
        """Slots of a clip."""
        return self.layout.num_queries

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Any], sampling_params: Any) -> tuple[list[int], dict[str, Any] | None]:
        """A text prompt with one locator a clip, and the clips."""
        clips = _as_list((inputs.get("multi_modal_data") or {}).get("audio"))
        if not clips:
            return self._ids(inputs, 0), None
        if self._tower is None:
            self._tower = _Tower(self._folder / "audio")
        vectors = self._tower([_samples(clip) for clip in clips])
        return self._ids(inputs, len(clips)), self._data(vectors.flatten(0, 1))

    def attach_multimodal_embeddings(
        self, inputs: Mapping[str, Any], multimodal_embedding: Mapping[str, Sequence[torch.Tensor]], sampling_params: Any
    ) -> tuple[list[int], dict[str, Any]]:
        """A text prompt, and each clip's vectors [Q, H] computed elsewhere."""
        vectors = list(multimodal_embedding["audio"])
        wrong = [tuple(v.shape) for v in vectors if v.shape[0] != self.layout.num_queries]
        if wrong:
            raise ValueError(f"audio vectors of shape {wrong[0]}: this model takes {self.layout.num_queries} vectors a clip")
        return self._ids(inputs, len(vectors)), self._data(torch.cat(vectors))

    def _ids(self, inputs: Mapping[str, Any], clips: int) -> list[int]:
        transcripts = (inputs.get("mm_processor_kwargs") or {}).get("transcripts") or [None] * clips
        for text in transcripts:
            check_words(transcript_ids(self._own_tokenizer, text), self._own_tokenizer, self.layout.placeholder_token)
        rendered = render_chat_text(inputs["prompt"], self._own_tokenizer, self.layout, transcripts=transcripts)
        ids = list(rendered.input_ids)
        for start, length in rendered.audio_spans:
            ids[start : start + length] = [self.sentinel] * length
        return ids

    def _data(self, vectors_RH: torch.Tensor) -> dict[str, Any]:
        return {"multimodal_data": {"audio": {"embeds": vectors_RH.to(self.dtype)}}}


@register_auto_model("NemoDestaForConditionalGeneration")
@register_input_processor(
    NemoDestaInputProcessor,
    model_type=MODEL_TYPE,
    placeholder_metadata=MultimodalPlaceholderMetadata(
        placeholder_map={"audio": AUDIO_LOCATOR}, placeholder_placement=MultimodalPlaceholderPlacement.BEFORE_TEXT, placeholders_separator="\n"
    ),
)
class NemoDestaForConditionalGeneration(PreTrainedModel):
    """The LLM, with the clips' vectors put into their slots."""

    config_class = NemoDestaConfig

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model_config.pretrained_config)
        inner = copy.deepcopy(model_config)
        inner.pretrained_config = model_config.pretrained_config.text_config
        self.llm = AutoModelForCausalLM.from_config(inner)
        self.model_config = model_config
        self.post_config()

    def post_config(self) -> None:
        """The engine asks the LLM's configuration for its sizes."""
        self.config = self.llm.config
        self.model_config.pretrained_config = self.llm.config

    def load_weights(self, weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """The checkpoint holds the LLM's tensors under their own names."""
        self.llm.load_weights(weights, *args, **kwargs)

    def infer_max_seq_len(self) -> int:
        """Of the LLM."""
        return int(self.llm.infer_max_seq_len())

    @property
    def multimodal_data_device_paths(self) -> list[str]:
        """What the engine moves to the GPU before :meth:`forward`."""
        return ["audio.embeds"]

    @torch.inference_mode()
    def forward(self, attn_metadata: Any, input_ids: Any = None, position_ids: Any = None, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        """One step of the engine over all requests in flight."""
        parameters = (kwargs.get("multimodal_params") or [])[: attn_metadata.num_contexts]
        vectors: list[torch.Tensor] = []
        if parameters:
            vectors = get_multimodal_embeddings(encoder_forward_fn=_gather, multimodal_params=parameters)
            if find_input_mm_embeds is not None:
                vectors = find_input_mm_embeds(vectors, parameters)
        known = inspect.signature(fuse_input_embeds).parameters
        passed = kwargs if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()) else {}
        input_ids, fused = fuse_input_embeds(self.llm.model.embed_tokens, input_ids, vectors, **passed)
        context = kwargs.get("return_context_logits", False)
        return self.llm.forward(
            attn_metadata=attn_metadata, input_ids=input_ids, position_ids=position_ids, inputs_embeds=fused, return_context_logits=context
        )


def _gather(parameters: Sequence[Any]) -> list[torch.Tensor]:
    """All requests' vectors as one tensor."""
    return [torch.cat([p.multimodal_data["audio"]["embeds"] for p in parameters])]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _samples(clip: Any) -> np.ndarray:
    """(samples, rate) or samples, as 16 kHz mono float32."""
    samples, rate = clip if isinstance(clip, tuple) else (clip, SAMPLE_RATE)
    samples = np.asarray(samples, np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return samples
