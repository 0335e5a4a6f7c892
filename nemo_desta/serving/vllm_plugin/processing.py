"""A request's prompt and clips to token ids and features, for vLLM's processor interface (0.32).

Shape suffixes: S samples, M mel bands, L mel frames.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import BaseDummyInputsBuilder, BaseMultiModalProcessor, BaseProcessingInfo, PromptReplacement
from vllm.multimodal.processing.context import TimingContext
from vllm.multimodal.processing.inputs import ProcessorInputs

from nemo_desta.config import PadTo
from nemo_desta.data.conversation import END_AUDIO, START_AUDIO, check_words, transcript_ids
from nemo_desta.modules.encoder import SAMPLE_RATE
from nemo_desta.modules.log_mel import LogMel
from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.serving.vllm_plugin.config import TRANSCRIBER
from nemo_desta.serving.vllm_plugin.prompt import find_clips, with_words

OPTIONS = {"transcripts": "whisper", "transcriber_device": "cpu"}
"""Keys of ``--mm-processor-kwargs``: who writes the words of clips without any (whisper | off), and where Whisper runs."""


class NemoDestaInfo(BaseProcessingInfo):
    """What the processor and vLLM's planning know of the model."""

    @property
    def card(self) -> dict[str, Any]:
        """The contract of the audio."""
        card: dict[str, Any] = self.get_hf_config().nemo_desta
        return card

    @cached_property
    def featurizer(self) -> LogMel:
        """Clips to mel features."""
        return LogMel(self.card["num_mels"], max_frames=self.card["max_frames"])

    @cached_property
    def no_words(self) -> list[int]:
        """Ids behind a clip without words."""
        return transcript_ids(self.get_tokenizer(), None)

    def get_data_parser(self) -> MultiModalDataParser:
        size = self._get_expected_hidden_size()
        return MultiModalDataParser(target_sr=SAMPLE_RATE, target_channels=1, audio_resample_method="soxr", expected_hidden_size=size)

    def get_default_tok_params(self) -> Any:
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)  # the chat template writes BOS itself

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"audio": self.card["num_queries"]}


class NemoDestaDummyInputs(BaseDummyInputsBuilder[NemoDestaInfo]):
    """The largest request, for measuring memory: 30 s of silence a clip, without words."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        clip = START_AUDIO + 3 * self.info.card["placeholder_token"] + END_AUDIO
        return clip * mm_counts.get("audio", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> dict[str, Any]:
        samples = self.info.card["max_frames"] * SAMPLE_RATE // 100
        return {"audio": self._get_dummy_audios(length=samples, num_audios=mm_counts.get("audio", 0), overrides=mm_options.get("audio"))}


class NemoDestaProcessor(BaseMultiModalProcessor[NemoDestaInfo]):
    """Finds the clips' words and makes their features; the words are plain tokens of the prompt, so that vLLM's caches of clips do not depend on them."""

    _lock = threading.Lock()

    def apply(self, inputs: ProcessorInputs, timing_ctx: TimingContext) -> Any:
        """vLLM's steps behind our own one: words in the place of the marks.

        Raises:
            ValueError: the prompt's marks are not those of the clips, a clip's words hold a special token, or a clip is none that the encoder takes.
        """
        with timing_ctx.record("transcribe"):
            prompt = self._prompt(inputs)
        return super().apply(replace(inputs, prompt=prompt), timing_ctx)

    def _prompt(self, inputs: ProcessorInputs) -> list[int]:
        card = self.info.card
        samples = inputs.mm_data_items["audio"].get_all() if "audio" in inputs.mm_data_items else []
        clips = find_clips(inputs.prompt, card["placeholder_id"], card["num_queries"], self.info.no_words)
        if len(clips) != len(samples):
            raise ValueError(f"the prompt marks {len(clips)} clips, the request has {len(samples)}")
        for clip in clips:
            check_words(clip.words or [], self.info.get_tokenizer(), card["placeholder_token"])
        waiting = [i for i, clip in enumerate(clips) if clip.words is None]
        options = OPTIONS | self.info.ctx.get_merged_mm_kwargs(inputs.hf_processor_mm_kwargs)
        found = dict(zip(waiting, self._listen([samples[i] for i in waiting], options), strict=True))
        return with_words(inputs.prompt, clips, card["placeholder_id"], [found.get(i, clip.words or []) for i, clip in enumerate(clips)])

    def _listen(self, clips: Sequence[Any], options: Mapping[str, Any]) -> list[list[int]]:
        """Ids of the words of clips that come without any."""
        if not clips or options["transcripts"] == "off" or not self.info.card["transcriber"]:
            return [self.info.no_words] * len(clips)
        if any(clip is None for clip in clips):
            raise ValueError("a clip was named by its uuid alone: send its transcript too, or its samples")
        folder = Path(self.info.model_id) / TRANSCRIBER
        if not folder.is_dir():
            raise ValueError(f'there is no {folder}: give vLLM the exported directory, or start it with --mm-processor-kwargs \'{{"transcripts": "off"}}\'')
        with self._lock:
            texts = self._transcriber(folder, options["transcriber_device"]).transcribe([torch.as_tensor(clip, dtype=torch.float32) for clip in clips])
        return [transcript_ids(self.info.get_tokenizer(), text) for text in texts]

    _whisper: WhisperTranscriber | None = None

    def _transcriber(self, folder: Path, device: str) -> WhisperTranscriber:
        """Whisper, loaded at the first clip without words, once a process."""
        cls = type(self)
        if cls._whisper is None:
            cls._whisper = WhisperTranscriber.from_pretrained(folder).to(device)
        return cls._whisper

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, Any]) -> BatchFeature:
        """Features_ML of every clip, its own frames only: what a clip becomes does not depend on the other clips."""
        pad_to = PadTo(self.info.card["perception"]["pad_to"])
        made = [self.info.featurizer([np.asarray(clip, np.float32)], pad_to) for clip in hf_data["audio"]]
        return BatchFeature({"input_features": [features_1ML[0] for features_1ML, _ in made], "lengths": torch.cat([lengths_1 for _, lengths_1 in made])})

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]) -> Mapping[str, MultiModalFieldConfig]:
        return {"input_features": MultiModalFieldConfig.batched("audio"), "lengths": MultiModalFieldConfig.batched("audio", keep_on_cpu=True)}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any) -> Sequence[PromptReplacement]:
        slot, count = self.info.card["placeholder_id"], self.info.card["num_queries"]
        return [PromptReplacement(modality="audio", target=[slot], replacement=[slot] * count)]
