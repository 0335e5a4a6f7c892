import numpy as np
import pytest
import soundfile as sf
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from nemo_desta.config import CorpusConfig, SourceConfig
from nemo_desta.corpora import REGISTRY, CorpusRecipe, mixture
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.transcribe import needs_transcript, transcribe, with_text

CREDIT = {"dataset": "mute", "split": "train", "license": "CC0-1.0", "attribution": "nobody", "group": "g", "origin": "made here"}


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


class Scribe:
    """Writes down the length and loudness of what it hears."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def transcribe(self, samples):
        self.calls.append(len(samples))
        assert all(x.dtype == torch.float32 and x.dim() == 1 for x in samples)
        return ["" if float(x.abs().max()) == 0 else f"{len(x)} samples" for x in samples]


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


def test_clips_are_transcribed_in_batches_and_come_back_in_order(noise_cut):
    scribe = Scribe()
    lengths = {"a": 0.6, "c": 0.9, "e": 0.3}
    cuts = [noise_cut("a", 0.6), noise_cut("b", 0.5, text="known"), noise_cut("c", 0.9), noise_cut("d", 0.4, domain="sound"), noise_cut("e", 0.3)]
    out = transcribe(cuts, scribe, source="scribe", batch_size=2)
    assert scribe.calls == [2, 1] and [cut.id for cut in out] == ["a", "b", "c", "d", "e"]
    assert out[1] is cuts[1] and out[3] is cuts[3]
    for cut in (out[0], out[2], out[4]):
        assert cut.supervisions[0].text == f"{round(lengths[cut.id] * 16_000)} samples" and cut.custom["text_source"] == "scribe"


def test_a_clip_in_which_nobody_speaks_stays_as_it_is(noise_cut, tmp_path):
    cut = noise_cut("a", 0.5)
    sf.write(tmp_path / "a.flac", np.zeros(8_000, dtype=np.float32), 16_000)
    assert transcribe([cut], Scribe(), source="scribe") == [cut]


def test_nothing_to_do_asks_nobody(noise_cut):
    cuts, scribe = [noise_cut("a", 0.5, text="known")], Scribe()
    assert transcribe(cuts, scribe, source="scribe") == cuts and not scribe.calls
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        transcribe(cuts, scribe, source="scribe", batch_size=0)
    with pytest.raises(ValueError, match="at 8000 Hz"):
        transcribe([noise_cut("b", 0.5).resample(8_000)], scribe, source="scribe")


def test_what_was_heard_before_a_kill_is_not_heard_again(noise_cut, tmp_path):
    class Mortal(Scribe):
        def transcribe(self, samples):
            if self.calls:
                raise KeyboardInterrupt
            return super().transcribe(samples)

    cuts, journal = [noise_cut(name, 0.4 + 0.1 * i) for i, name in enumerate("abcde")], tmp_path / "transcripts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        transcribe(cuts, Mortal(), source="scribe", batch_size=2, journal=journal)
    assert len(journal.read_text().splitlines()) == 2
    journal.write_bytes(journal.read_bytes() + b'{"clip": "a@0.4')  # a torn write
    scribe, other, third = Scribe(), Scribe(), Scribe()
    out = transcribe(cuts, scribe, source="scribe", batch_size=2, journal=journal)
    assert sum(scribe.calls) == 3 and out == transcribe(cuts, Scribe(), source="scribe")
    assert transcribe(cuts, other, source="scribe", journal=journal) == out and not other.calls
    transcribe([noise_cut("a", 0.7)], third, source="scribe", journal=journal)
    transcribe(cuts[:1], third, source="another", journal=journal)
    assert third.calls == [1, 1], "another clip of that name and another transcriber are asked anew"


def test_words_with_an_odd_line_separator_are_not_heard_again(noise_cut, tmp_path):
    class Odd(Scribe):
        def transcribe(self, samples):
            return [words + "\u2028" + words for words in super().transcribe(samples)]

    cuts, again = [noise_cut("a", 0.5)], Odd()
    out = transcribe(cuts, Odd(), source="scribe", journal=tmp_path / "transcripts.jsonl")
    assert transcribe(cuts, again, source="scribe", journal=tmp_path / "transcripts.jsonl") == out and not again.calls


def test_a_mixture_is_transcribed_by_the_one_that_the_configuration_names(tmp_path, noise_cut, monkeypatch):
    cuts = [fastcopy(noise_cut(name, 0.5, text=text), custom={"domain": "speech", **CREDIT}) for name, text in (("a", None), ("b", "known"))]
    recipe = CorpusRecipe("mute", lambda *_, **__: CutSet.from_cuts(cuts), (), "speech", "CC0-1.0", "speech without words")
    monkeypatch.setitem(REGISTRY, "mute", recipe)
    monkeypatch.setattr(mixture, "corpus_summary", lambda *_: {"skipped": {}})
    cfg = CorpusConfig(sources=[SourceConfig("mute")], transcribe="asset://scribe")
    with pytest.raises(ValueError, match="do not go together"):
        mixture.prepare_mixture(cfg, tmp_path / "corpus", {})
    train, _ = mixture.prepare_mixture(cfg, tmp_path / "corpus", {}, Scribe())
    assert [(cut.supervisions[0].text, cut.custom.get("text_source")) for cut in train] == [("8000 samples", "scribe"), ("known", None)]
    assert len((tmp_path / "corpus" / "transcripts.jsonl").read_text().splitlines()) == 1
    assert mixture.is_current(cfg, tmp_path / "corpus", ())
    assert not mixture.is_current(CorpusConfig(sources=cfg.sources), tmp_path / "corpus", ())


@pytest.mark.assets
def test_whisper_base_gives_a_spoken_clip_its_words(tmp_path, asset):
    from nemo_desta.corpora.audio import decode, to_mono_16k
    from nemo_desta.modules.transcriber import WhisperTranscriber

    found = asset("asterisk-core-sounds-en-g722", "whisper-base")
    wave = to_mono_16k(*decode(next(found["asterisk-core-sounds-en-g722"].rglob("vm-goodbye.g722"))))
    sf.write(tmp_path / "a.flac", wave, 16_000)
    recording = Recording.from_file(tmp_path / "a.flac")
    source = SupervisionSegment("a", recording.id, 0.0, recording.duration, language="English", custom={})
    cut = fastcopy(recording.to_cut(), id="a", supervisions=[source], custom={"domain": "speech"})
    (told,) = transcribe([cut], WhisperTranscriber.from_pretrained(found["whisper-base"]), source="whisper-base")
    assert "goodbye" in told.supervisions[0].text.lower()
    assert told.custom["text_source"] == "whisper-base"
