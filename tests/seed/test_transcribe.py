from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.transcribe import _batches, needs_transcript, transcribe, whisper_language, with_text


@pytest.fixture
def noise_cut(tmp_path):
    def make(cut_id: str, seconds: float, domain: str = "speech", text: str | None = None, language: str | None = "English") -> MonoCut:
        path = tmp_path / f"{cut_id}.flac"
        wave = 0.05 * np.random.default_rng(len(cut_id)).standard_normal(int(seconds * 16_000))
        sf.write(path, wave.astype(np.float32), 16_000)
        recording = Recording.from_file(path)
        source = SupervisionSegment(cut_id, recording.id, 0.0, recording.duration, text=text, language=language, custom={})
        return fastcopy(recording.to_cut(), id=cut_id, supervisions=[source], custom={"domain": domain})

    return make


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory) -> Path:
    """A Whisper of random weights in Hugging Face layout, with a real byte-level tokenizer of few tokens."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor, WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    path = tmp_path_factory.mktemp("whisper") / "whisper-tiny-random"
    characters = {chr(c): i for i, c in enumerate([*range(33, 127), *range(161, 173), *range(174, 512)])}
    tokenizer = WhisperTokenizer(vocab=characters | {"<|endoftext|>": len(characters)}, merges=[])
    special = ["<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), "<|translate|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in [*special, "<|endoftext|>"]}
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], decoder_start_token_id=ids["<|startoftranscript|>"], max_target_positions=300,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    settings = model.generation_config
    # Random weights may say anything but these, so that a text comes out.
    settings.suppress_tokens = sorted({*ids.values(), *range(94, len(characters))})[:-1]
    model.save_pretrained(path)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(path)
    return path


def test_only_speech_without_words_is_transcribed(noise_cut):
    assert needs_transcript(noise_cut("a", 0.5))
    assert not needs_transcript(noise_cut("b", 0.5, text="Hello"))
    assert not needs_transcript(noise_cut("c", 0.5, domain="music"))
    row = SupervisionSegment("r", "rec", 0.0, 0.5, text="an answer", custom={"role": "self_generated"})
    silent = noise_cut("d", 0.5)
    assert needs_transcript(fastcopy(silent, supervisions=[*silent.supervisions, row]))


def test_text_is_marked_with_its_source(noise_cut):
    cut = noise_cut("a", 0.5)
    told = with_text(cut, " Hello ", "whisper-base")
    assert told.supervisions[0].text == "Hello"
    assert told.custom["text_source"] == told.supervisions[0].custom["text_source"] == "whisper-base"
    assert attributes_of(told)["transcript"] == "Hello"
    assert cut.supervisions[0].text is None and "text_source" not in cut.custom
    assert with_text(cut, "  ", "whisper-base") is cut
    bare = with_text(fastcopy(cut, supervisions=[]), "Hi", "w")
    assert bare.supervisions[0].text == "Hi" and bare.supervisions[0].duration == cut.duration


def test_languages_are_translated_to_whispers_names():
    known = {"english", "chinese", "dutch"}
    assert whisper_language("English", known) == "english"
    assert whisper_language("Mandarin", known) == "chinese"
    assert whisper_language("Klingon", known) is None
    assert whisper_language(None, known) is None


def test_batches_hold_one_language_and_every_clip_once(noise_cut):
    cuts = [noise_cut(f"c{i}", 0.3 + 0.1 * (i % 4)) for i in range(9)]
    languages = ["dutch", "english", None] * 3
    batches = list(_batches(cuts, languages, 2))
    assert sorted(i for batch in batches for i in batch) == list(range(9))
    assert all(len(batch) <= 2 and len({languages[i] for i in batch}) == 1 for batch in batches)


def test_a_random_whisper_transcribes_in_order(noise_cut, tiny_whisper):
    cuts = [noise_cut("a", 0.6, language="Dutch"), noise_cut("b", 0.5, text="known"), noise_cut("c", 0.9), noise_cut("d", 0.4, domain="sound")]
    out = transcribe(cuts, tiny_whisper, batch_size=2)
    assert [cut.id for cut in out] == ["a", "b", "c", "d"]
    assert out[1] is cuts[1] and out[3] is cuts[3]
    for cut in (out[0], out[2]):
        assert cut.supervisions[0].text
        assert cut.custom["text_source"] == "whisper-tiny-random"


def test_nothing_to_do_loads_no_model(noise_cut):
    cuts = [noise_cut("a", 0.5, text="known")]
    assert transcribe(cuts, "no/such/model") == cuts
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        transcribe(cuts, "no/such/model", batch_size=0)


@pytest.mark.assets
def test_whisper_base_transcribes_english(tmp_path):
    from nemo_desta.assets import fetch, resolve_model

    sounds = fetch(["asterisk-core-sounds-en-g722"])["asterisk-core-sounds-en-g722"]
    from nemo_desta.corpora.audio import decode, to_mono_16k

    wave = to_mono_16k(*decode(next(sounds.rglob("vm-goodbye.g722"))))
    sf.write(tmp_path / "a.flac", wave, 16_000)
    recording = Recording.from_file(tmp_path / "a.flac")
    source = SupervisionSegment("a", recording.id, 0.0, recording.duration, language="English", custom={})
    cut = fastcopy(recording.to_cut(), id="a", supervisions=[source], custom={"domain": "speech"})
    (told,) = transcribe([cut], resolve_model("asset://whisper-base"))
    assert "goodbye" in told.supervisions[0].text.lower()
    assert told.custom["text_source"] == "whisper-base"
