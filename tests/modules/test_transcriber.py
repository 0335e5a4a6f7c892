"""Transcripts: who is asked, where it computes, and what Whisper makes of speech and of noise."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from nemo_desta.config import PadTo
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.modules import transcriber as transcriber_module
from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.modules.whisper import WhisperRest, WhisperTaps
from tests.tiny import tiny_whisper


class Words:
    """A tokenizer that says the ids."""

    def __init__(self, **vocabulary: int) -> None:
        self.vocabulary = {f"<|{name}|>": token for name, token in vocabulary.items()}

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def decode(self, ids, *, skip_special_tokens: bool) -> str:
        return f" clip {int(ids[0])} "


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny"))


@pytest.fixture
def passes(model) -> Iterator[list[int]]:
    """Clips of each pass of the encoder."""
    seen: list[int] = []
    hook = model.model.encoder.register_forward_hook(lambda module, args, kwargs, out: seen.append(len(out.last_hidden_state)), with_kwargs=True)
    yield seen
    hook.remove()


def test_silent_clips_are_left_out_and_the_others_keep_their_places(model, monkeypatch, passes):
    heard: list[int] = []

    def generate(encoder_outputs, **settings):
        states = encoder_outputs.last_hidden_state
        assert settings["max_length"] == 128 and states.shape[1:] == (1500, 32)
        heard.append(len(states))
        return torch.arange(len(states))[:, None]

    transcriber = WhisperTranscriber(model, Words())
    monkeypatch.setattr(model, "generate", generate)
    monkeypatch.setattr(transcriber, "no_speech_probability", lambda states: torch.tensor([0.1, 0.9, 0.2][: len(states.last_hidden_state)]))
    tones = [torch.full((8_000,), 0.1 * i) for i in range(1, 6)]
    assert transcriber.transcribe(tones, batch_size=3) == ["clip 0", "", "clip 1", "clip 0", ""] and heard == [2, 1] and passes == [3, 2]


def test_no_speech_is_the_share_of_its_token_in_the_first_step(model):
    features = torch.randn(2, 80, 3000)
    logits = model(input_features=features, decoder_input_ids=torch.full((2, 1), model.config.decoder_start_token_id)).logits[:, -1]
    for name in ("nospeech", "nocaptions"):
        transcriber = WhisperTranscriber(model, Words(**{name: 7}))
        assert torch.allclose(transcriber.no_speech_probability(transcriber.encode(features)), logits.softmax(-1)[:, 7])
    transcriber = WhisperTranscriber(model, Words())
    assert transcriber.no_speech_probability(transcriber.encode(features)).tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WhisperTranscriber:
    """A made Whisper with a tokenizer and all that `generate` needs."""
    folder = tmp_path_factory.mktemp("made")
    make_tiny_checkpoint(folder)
    return WhisperTranscriber.from_pretrained(folder / "whisper")


def tones(count: int) -> list[torch.Tensor]:
    return [0.2 * torch.sin(torch.arange(6_000 + 1_500 * i) * (0.05 + 0.03 * i)) for i in range(count)]


def test_a_clip_is_encoded_once_and_gets_the_words_of_generate(whole):
    clips, seen = tones(3), []
    hook = whole.model.model.encoder.register_forward_hook(lambda *a: seen.append(len(a[-1].last_hidden_state)))
    try:
        texts = whole.transcribe(clips, batch_size=2)
        scored = whole.transcribe_scored(clips, batch_size=2)
    finally:
        hook.remove()
    assert seen == [2, 1, 2, 1] and [text for text, _ in scored] == texts and all(0 < score <= 1 for _, score in scored)
    for clip, text in zip(clips, texts, strict=True):
        ids = whole.model.generate(whole.log_mel([clip], PadTo.thirty_seconds)[0], task="transcribe", max_new_tokens=128, do_sample=False)
        assert text == whole.tokenizer.decode(ids[0], skip_special_tokens=True).strip() != ""


def test_transcribing_warns_of_nothing_and_ends_at_its_limit(whole, monkeypatch, caplog):
    monkeypatch.setattr(whole.model.generation_config, "max_length", 448)  # as in the files of every Whisper
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(transcriber_module, "MAX_TOKENS", 5)
    states = whole.encode(whole.log_mel(tones(2), PadTo.thirty_seconds)[0])
    whole.transcribe_states(states)  # what is said once in a process, whoever calls, may be said here
    caplog.clear()
    for _ in range(2):
        assert all(whole.transcribe_states(states)) and all(score for _, score in whole.transcribe_scored(tones(2)))
    assert [record.getMessage() for record in caplog.records] == []
    short = whole.model.generate(whole.log_mel(tones(2), PadTo.thirty_seconds)[0], task="transcribe", max_new_tokens=5, do_sample=False)
    assert torch.equal(whole._generate(states), short) and whole.model.generation_config.max_length == 448


@pytest.mark.parametrize("last", [1, 3])
def test_the_rest_of_an_encoder_gives_the_decoder_whispers_own_states(whole, last):
    encoder = WhisperTaps(copy.deepcopy(whole.model.model.encoder), taps=(0, last), pad_to=PadTo.thirty_seconds)
    features, lengths = encoder.featurizer(tones(2), PadTo.thirty_seconds)
    taps_NBTD, _ = encoder.encode(features, lengths)
    rest = WhisperRest(whole.model.model.encoder, last + 1)
    assert len(rest.blocks) == 3 - last
    assert torch.allclose(rest(taps_NBTD[-1]), whole.encode(features).last_hidden_state, atol=1e-4)


def test_features_follow_the_model(model, monkeypatch):
    transcriber, seen = WhisperTranscriber(model, Words()), []

    def encoder(features):
        seen.append((features.device.type, features.dtype))
        return BaseModelOutput(last_hidden_state=torch.zeros(1, 1500, 32))

    monkeypatch.setattr(model.model.encoder, "forward", encoder)
    monkeypatch.setattr(transcriber, "transcribe_states", lambda states: [""])
    for device in ("meta", "cpu"):
        monkeypatch.setattr(type(model), "device", torch.device(device))
        transcriber.transcribe([torch.full((8_000,), 0.1)])
    assert seen == [("meta", torch.float32), ("cpu", torch.float32)]


@pytest.mark.gpu
def test_transcribes_on_a_gpu(tmp_path):
    own = WhisperForConditionalGeneration.from_pretrained(tiny_whisper(tmp_path / "whisper"))
    transcriber = WhisperTranscriber(own, Words(nospeech=7)).to("cuda")
    assert transcriber.no_speech_probability(transcriber.encode(torch.randn(2, 80, 3000))).device.type == "cuda"


@pytest.mark.parametrize("ref", ["nvidia/canary-1b-flash", "hf://nvidia/canary-1b-flash", Path("models/canary.nemo")])
def test_a_nemo_model_has_no_transcripts(ref):
    with pytest.raises(ValueError, match="no Whisper decoder: give 'text'"):
        WhisperTranscriber.from_pretrained(ref)


@pytest.mark.assets
def test_whisper_base_writes_what_is_said_and_nothing_for_noise(asset):
    from nemo_desta.corpora.audio import decode, to_mono_16k

    found = asset("asterisk-core-sounds-en-g722", "whisper-base")
    speech = torch.from_numpy(to_mono_16k(*decode(next(found["asterisk-core-sounds-en-g722"].rglob("vm-goodbye.g722")))))
    noise = torch.from_numpy(0.01 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32))
    hum = 0.02 * torch.sin(torch.arange(48_000) * (2 * torch.pi * 100 / 16_000))
    words, nothing, still_nothing = WhisperTranscriber.from_pretrained(found["whisper-base"]).transcribe([speech, noise, hum])
    assert "goodbye" in words.lower() and (nothing, still_nothing) == ("", "")
