"""Triton's Python backend over the engine flow (TensorRT-LLM <= 1.2.x): messages and samples to an answer, by calls to two other models of the server.

An export copies this file, with those it imports, to ``triton/nemo_desta/1/model.py``; there it needs NumPy, transformers and jinja2 for the chat template.
``audio_tower`` (ONNX Runtime) gives the clips' vectors, ``tensorrt_llm`` (``inflight_batcher_llm`` of the server's own templates) the answer.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from jinja2.exceptions import TemplateError

from nemo_desta.data.conversation import AudioLayout, check_words, render, transcript_ids
from nemo_desta.export.features import FeatureConfig, Features, graph_input
from nemo_desta.export.splice import SplicedPrompt, splice

AUDIO_MODEL, LLM_MODEL = "audio_tower", "tensorrt_llm"
MAX_TOKENS = 256  # of an answer, where the request names no number


class TritonPythonModel:
    """The model ``nemo_desta`` of the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the bundle that this model lies in."""
        from transformers import AutoTokenizer

        bundle = Path(args["model_repository"]).resolve().parents[1]
        card = _read(bundle / "audio" / "config.json")
        self.features = Features(FeatureConfig.load(bundle / "audio" / "preprocessor_config.json"))
        self.layout = AudioLayout(card["placeholder_token"], card["num_queries"], None)
        self.width: int = card["hidden_size"]
        self.fixed: bool = card["fixed_frames"]
        llm = _read(bundle / "llm" / "trtllm_ckpt" / "config.json")
        self.vocab_size: int = llm["vocab_size"]  # not the padded one: virtual ids start where the LLM's own end
        self.dtype = np.dtype(llm["dtype"])
        self.stop_ids: list[int] = _read(bundle / "manifest.json")["llm"]["stop_ids"]
        self.tokenizer: Any = AutoTokenizer.from_pretrained(bundle / "llm" / "hf")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request; what is wrong with a request stands in its response."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            text = self._answer(request)
        except (ValueError, TemplateError) as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("TEXT", np.array([text.encode()], dtype=object))])

    def _answer(self, request: Any) -> str:
        messages, transcripts, max_tokens = _asked(_input(request, "REQUEST"))
        clips = _clips(_input(request, "AUDIO"), _input(request, "AUDIO_LENGTHS"))
        for text in transcripts:
            check_words(transcript_ids(self.tokenizer, text), self.tokenizer, self.layout.placeholder_token)
        rendered = render(messages, self.tokenizer, self.layout, transcripts=transcripts or [None] * len(clips))
        vectors = self._hear(clips) if len(clips) else np.zeros((0, 0, self.width), np.float32)
        spliced = splice(rendered.input_ids, rendered.audio_spans, vectors, self.vocab_size)
        ids = self._generate(spliced, max_tokens)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _hear(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (C, Q, H) of the clips."""
        features, lengths = self.features(clips)
        inputs = [pb_utils.Tensor("input_features", graph_input(features))]
        if not self.fixed:
            inputs.append(pb_utils.Tensor("lengths", lengths[:, None]))
        return _call(AUDIO_MODEL, inputs, "audio_embeds")

    def _generate(self, prompt: SplicedPrompt, max_tokens: int) -> list[int]:
        """The LLM's answer, without the stop token and what follows it."""
        count = len(prompt.input_ids)
        whole = {"input_ids": prompt.input_ids, "input_lengths": [count], "request_output_len": [max_tokens], "end_id": self.stop_ids[:1]}
        inputs = [pb_utils.Tensor(name, np.array([values], np.int32)) for name, values in {**whole, "pad_id": self.stop_ids[:1]}.items()]
        if len(self.stop_ids) > 1:  # one list of words: their tokens, and where each ends
            inputs.append(pb_utils.Tensor("stop_words_list", np.array([[self.stop_ids, range(1, len(self.stop_ids) + 1)]], np.int32)))
        if len(prompt.prompt_table):
            inputs.append(pb_utils.Tensor("prompt_embedding_table", prompt.prompt_table[None].astype(self.dtype)))
            inputs.append(pb_utils.Tensor("prompt_vocab_size", np.array([[len(prompt.prompt_table)]], np.int32)))
            inputs.append(pb_utils.Tensor("prompt_table_extra_ids", np.array([prompt.extra_ids], np.uint64)))
        inputs.append(pb_utils.Tensor("exclude_input_in_output", np.array([[True]])))
        ids = [int(token) for token in _call(LLM_MODEL, inputs, "output_ids").reshape(-1)]
        end = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return ids[:end][:max_tokens]


def _asked(values: Any) -> tuple[list[Any], list[str | None], int]:
    """Messages, transcripts and the answer's most tokens of a request's ``REQUEST``.

    Raises:
        ValueError: what it must be.
    """
    try:
        asked = json.loads(b"" if values is None or len(values) != 1 else values[0])
        json.dumps(asked, ensure_ascii=False).encode()  # halves of characters ("\ud800"), which no tokenizer takes, end here
    except (ValueError, RecursionError) as error:
        raise ValueError(f"REQUEST must be one text of JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ValueError(f"REQUEST must be a JSON object, it is {asked!r:.80}")
    messages, transcripts, most = asked.get("messages"), asked.get("transcripts") or [], asked.get("max_tokens", MAX_TOKENS)
    if not isinstance(messages, list) or not messages or not all(_is_turn(m) for m in messages):
        raise ValueError('messages must be a list of {"role": text, "content": text}')
    if not isinstance(transcripts, list) or not all(t is None or isinstance(t, str) for t in transcripts):
        raise ValueError("transcripts must be a list with a text or null for each clip")
    if type(most) is not int or not 1 <= most < 2**31:
        raise ValueError(f"max_tokens must be a whole number of at least 1, it is {most!r:.80}")
    return messages, transcripts, most


def _is_turn(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)


def _clips(samples: Any, lengths: Any) -> list[np.ndarray]:
    """The clips that stand one after another in ``AUDIO``.

    Raises:
        ValueError: ``AUDIO_LENGTHS`` are not theirs.
    """
    count, each = (0 if samples is None else len(samples)), ([] if lengths is None else [int(n) for n in lengths])
    if sum(each) != count or min(each, default=1) < 1:
        raise ValueError(f"AUDIO has {count} samples, AUDIO_LENGTHS says {each!r:.80}: give the number of samples of each clip, at least 1")
    return np.split(samples, np.cumsum(each)[:-1]) if each else []


def _call(model: str, inputs: Sequence[Any], output: str) -> np.ndarray:
    """One output of another model of the server.

    Raises:
        ValueError: that model's error.
    """
    response = pb_utils.InferenceRequest(model_name=model, requested_output_names=[output], inputs=list(inputs)).exec()
    if response.has_error():
        raise ValueError(f"{model}: {response.error().message()}")
    values: np.ndarray = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
    return values


def _input(request: Any, name: str) -> Any:
    """An input's values, None where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
