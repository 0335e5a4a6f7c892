"""Transcripts: who is asked, where it computes, and what Whisper makes of speech and of noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from nemo_desta.modules.transcriber import WhisperTranscriber
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


def test_silent_clips_are_left_out_and_the_others_keep_their_places(model, monkeypatch):
    heard: list[int] = []

    def generate(features_BMF, **settings):
        assert settings["max_new_tokens"] == 128 and features_BMF.shape[1:] == (80, 3000)
        heard.append(len(features_BMF))
        return torch.arange(len(features_BMF))[:, None]

    transcriber = WhisperTranscriber(model, Words())
    monkeypatch.setattr(model, "generate", generate)
    monkeypatch.setattr(transcriber, "no_speech_probability", lambda features: torch.tensor([0.1, 0.9, 0.2][: len(features)]))
    tones = [torch.full((8_000,), 0.1 * i) for i in range(1, 6)]
    assert transcriber.transcribe(tones, batch_size=3) == ["clip 0", "", "clip 1", "clip 0", ""] and heard == [2, 1]


def test_no_speech_is_the_share_of_its_token_in_the_first_step(model):
    features = torch.randn(2, 80, 3000)
    logits = model(input_features=features, decoder_input_ids=torch.full((2, 1), model.config.decoder_start_token_id)).logits[:, -1]
    for name in ("nospeech", "nocaptions"):
        assert torch.allclose(WhisperTranscriber(model, Words(**{name: 7})).no_speech_probability(features), logits.softmax(-1)[:, 7])
    assert WhisperTranscriber(model, Words()).no_speech_probability(features).tolist() == [0.0, 0.0]


def test_features_follow_the_model(model, monkeypatch):
    transcriber, seen = WhisperTranscriber(model, Words()), []
    monkeypatch.setattr(WhisperTranscriber, "_batch", lambda self, features: seen.append(features.device.type) or [""] * len(features))
    for device in ("meta", "cpu"):
        monkeypatch.setattr(type(model), "device", torch.device(device))
        transcriber.transcribe([torch.full((8_000,), 0.1)])
    assert seen == ["meta", "cpu"]


@pytest.mark.gpu
def test_transcribes_on_a_gpu(tmp_path):
    own = WhisperForConditionalGeneration.from_pretrained(tiny_whisper(tmp_path / "whisper"))
    transcriber = WhisperTranscriber(own, Words(nospeech=7)).to("cuda")
    assert transcriber.no_speech_probability(torch.randn(2, 80, 3000, device="cuda")).device.type == "cuda"


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
