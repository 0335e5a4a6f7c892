"""Rendered music, rendered instruments, synthetic speech and noisy speech."""

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora import REGISTRY
from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.controlled_speech import plan_espeak, plan_kokoro, sentences
from nemo_desta.corpora.noisy_speech import coloured_noise, mix, prepare_noisy_speech, render_noisy, speech_power
from nemo_desta.corpora.rendered_instruments import HELD_OUT, RANGES, instrument_sources, phrase, realise
from nemo_desta.corpora.rendered_music import GENRES, TEMPI, Piece, _midi_name, plan_pieces
from nemo_desta.corpora.synthesis import GM_INSTRUMENTS, Style, read_style, summarise_midi

SETTINGS = BuildSettings(num_jobs=1)


# --- MIDI and styles ------------------------------------------------------------------------------------------------------------------


def make_midi(path: Path) -> Path:
    """Two tracks: program 40 from beat 0 (two notes, running status), program 0 from beat 4, drums at beat 8; 120 then 60 bpm."""
    tempo = b"\x00\xff\x51\x03\x07\xa1\x20" + b"\x83\x60\xff\x51\x03\x0f\x42\x40" + b"\x00\xff\x2f\x00"
    notes = b"\x00\xc0\x28" + b"\x00\x90\x45\x50" + b"\x60\x47\x50" + b"\x83\x00\xc1\x00" + b"\x00\x91\x3c\x50" + b"\x83\x60\x99\x24\x50" + b"\x00\xff\x2f\x00"
    tracks = b"".join(b"MTrk" + struct.pack(">I", len(track)) + track for track in (tempo, notes))
    path.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 1, 2, 120) + tracks)
    return path


def test_midi_summary(tmp_path: Path) -> None:
    summary = summarise_midi(make_midi(tmp_path / "a.mid"))
    assert summary.programs == (40, 0)
    assert summary.drums
    assert summary.seconds == pytest.approx(4 * 0.5 + (960 - 480) / 120 * 1.0)
    early = summarise_midi(tmp_path / "a.mid", seconds=1.0)
    assert (early.programs, early.drums) == ((40,), False)


def test_broken_midi(tmp_path: Path) -> None:
    path = make_midi(tmp_path / "a.mid")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="damaged"):
        summarise_midi(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="no MIDI file"):
        summarise_midi(path)


def test_style_file(tmp_path: Path) -> None:
    path = tmp_path / "lib/stdlib/waltz.mma"
    path.parent.mkdir(parents=True)
    path.write_text("Time 3\nTimeSig 3 4\n  DefGroove Waltz  plain\nDefGroove Waltz1\nDefGroove WaltzIntro8\nDefGroove WaltzEnd\nDefGroove WaltzFillAA x\n")
    assert read_style(tmp_path, "stdlib/waltz") == Style("stdlib/waltz", ("Waltz", "Waltz1"), 3, "3/4")
    with pytest.raises(ValueError, match="no style"):
        read_style(tmp_path, "stdlib/valse")


def fake_library(home: Path) -> Path:
    for styles in GENRES.values():
        for style in styles:
            path = home / "lib" / f"{style}.mma"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("Time 4\nDefGroove A\nDefGroove B\n")
    return home


def test_pieces_are_even_over_genres_and_reproducible(tmp_path: Path) -> None:
    home = fake_library(tmp_path)
    options = {"clips": 130, "genres": None, "min_seconds": 8.0, "max_seconds": 12.0}
    pieces = plan_pieces(home, seed=1, **options)
    assert set(Counter(p.genre for p in pieces).values()) == {10}
    assert pieces == plan_pieces(home, seed=1, **options) != plan_pieces(home, seed=2, **options)
    for piece in pieces:
        low, high = TEMPI[piece.tempo]
        assert low <= piece.bpm <= high
        assert len(piece.chords) * piece.style.beats * 60 / piece.bpm >= piece.seconds, "the chart is at least as long as the clip"
    with pytest.raises(ValueError, match="unknown genres"):
        plan_pieces(home, seed=1, **{**options, "genres": ["jazz", "skiffle"]})


@pytest.mark.parametrize(("tonic", "mode", "shift"), [(0, "major", 0), (9, "minor", 0), (7, "major", -5), (2, "minor", 5), (5, "major", 5)])
def test_chart_is_transposed_to_the_key(tonic: int, mode: str, shift: int) -> None:
    piece = Piece("x", "jazz", Style("stdlib/swing", ("Swing",), 4, "4/4"), "Swing", 100, "medium", tonic, mode, ("C",), 8.0, -3.0, 1)
    assert f"Transpose {shift}\n" in piece.chart()


def test_midi_files_are_named_by_their_chart() -> None:
    def name(chords: tuple[str, ...], seconds: float) -> str:
        return _midi_name(Piece("x", "jazz", Style("stdlib/swing", ("Swing",), 4, "4/4"), "Swing", 100, "medium", 0, "major", chords, seconds, -3.0, 1))

    assert name(("C", "G"), 8.0) == name(("C", "G"), 8.1), "the same chart is compiled once"
    assert name(("C", "G"), 8.0) != name(("C", "G", "C"), 12.0), "another length is another chart"


@pytest.mark.assets
def test_rendered_music(tmp_path: Path, asset: Callable[..., dict[str, Path]]) -> None:
    pytest.importorskip("tinysoundfont")
    dirs = asset("mma", "timgm6mb-soundfont")
    options = {"clips": 6, "genres": ["waltz", "rock", "tango"], "min_seconds": 4.0, "max_seconds": 5.0}
    cuts = list(REGISTRY["rendered_music"].prepare(dirs, tmp_path / "a", settings=BuildSettings(), **options))
    assert Counter(cut.supervisions[0].custom["genre"] for cut in cuts) == {"waltz": 2, "rock": 2, "tango": 2}
    for cut in cuts:
        custom = cut.supervisions[0].custom
        assert 4.0 <= cut.duration <= 5.0
        assert custom["loudness_db"] > -45
        assert custom["instruments"] and custom["key"].endswith(custom["mode"])
        assert (custom["genre"] == "waltz") == (custom["time_signature"] == "3/4")
    again = list(REGISTRY["rendered_music"].prepare(dirs, tmp_path / "b", settings=BuildSettings(num_jobs=1), **options))
    assert all(np.array_equal(x.load_audio(), y.load_audio()) for x, y in zip(cuts, again, strict=True)), "rendering is reproducible"


# --- instruments ----------------------------------------------------------------------------------------------------------------------


def test_every_family_with_a_held_out_instrument_is_also_in_training() -> None:
    families = {GM_INSTRUMENTS[p][1] for p in HELD_OUT}
    assert families <= {GM_INSTRUMENTS[p][1] for p in RANGES if p not in HELD_OUT}
    assert set(RANGES) >= HELD_OUT


@pytest.mark.parametrize("program", sorted(RANGES))
def test_notes_stay_near_the_range_of_the_instrument(program: int) -> None:
    import random

    low, high = RANGES[program]
    for index in range(12):
        notes, attributes, _ = realise(phrase(index, test=False, seed=0), program, random.Random(index))
        assert notes
        assert all(low <= note.key <= high + 5 and 1 <= note.velocity <= 127 and note.duration > 0 for note in notes)
        assert attributes["playing"] != "chords" or len({n.start for n in notes}) < len(notes)


def test_instrument_clips_hold_out_programs_and_phrases(tmp_path: Path) -> None:
    sources = instrument_sources(tmp_path / "x.sf2", clips=264, seed=0)
    assert len(sources) >= 200
    test, train = ([s for s in sources if s.split == split] for split in ("test", "train"))
    assert not {s.group for s in test} & {s.group for s in train}
    held = {p + 1 for p in HELD_OUT}
    assert held.isdisjoint(s.attributes.get("gm_program") for s in train)
    assert all(("instrument" in s.attributes) == (s.attributes.get("gm_program") not in held) for s in sources)
    assert {s.attributes["instrument"] for s in test if "instrument" in s.attributes} <= {s.attributes["instrument"] for s in train}
    assert {s.attributes["instrument_family"] for s in test} <= {s.attributes["instrument_family"] for s in train}


@pytest.mark.assets
def test_rendered_instruments(tmp_path: Path, asset: Callable[..., dict[str, Path]]) -> None:
    pytest.importorskip("tinysoundfont")
    cuts = list(REGISTRY["rendered_instruments"].prepare(asset("timgm6mb-soundfont"), tmp_path, settings=SETTINGS, clips=46))
    assert len(cuts) >= 40
    assert all(cut.supervisions[0].custom["loudness_db"] > -50 for cut in cuts)
    assert not (tmp_path / "rendered_instruments/skipped.jsonl").read_text()


# --- controlled speech ----------------------------------------------------------------------------------------------------------------


def test_sentences() -> None:
    assert len(sentences()["English"]) >= 80
    assert all(len(pool) >= 10 and len(set(pool)) == len(pool) for pool in sentences().values())


@pytest.mark.parametrize("plan", [plan_kokoro, plan_espeak])
def test_test_voices_and_their_sentences_are_held_out(plan) -> None:  # type: ignore[no-untyped-def]
    utterances = plan(400, 0)
    assert utterances == plan(400, 0) != plan(400, 1)
    for test in (True, False):
        assert {u.gender for u in utterances if u.test == test} == {"male", "female"}
        assert len({u.language for u in utterances if u.test == test}) >= 5 - (not test)
    assert not {u.text for u in utterances if u.test} & {u.text for u in utterances if not u.test}
    assert not {u.voice for u in utterances if u.test} & {u.voice for u in utterances if not u.test}


def test_engines_are_checked(tmp_path: Path) -> None:
    prepare = REGISTRY["controlled_speech"].prepare
    with pytest.raises(ValueError, match="engines must be"):
        prepare({}, tmp_path, settings=SETTINGS, engines=["flite"])
    with pytest.raises(ValueError, match="kokoro-82m"):
        prepare({"espeak-ng": tmp_path}, tmp_path, settings=SETTINGS)
    with pytest.raises(ValueError, match="no eSpeak NG library"):
        prepare({"espeak-ng": tmp_path}, tmp_path, settings=SETTINGS, engines=["espeak"], espeak_clips=1)


@pytest.mark.assets
def test_espeak_obeys_pitch_rate_and_voice(asset: Callable[..., dict[str, Path]]) -> None:
    from nemo_desta.corpora.audio import to_mono_16k
    from nemo_desta.corpora.speech_engines import speak_espeak
    from nemo_desta.seed.measure import measure

    root = asset("espeak-ng")["espeak-ng"]
    text = sentences()["English"][0]

    def pitch_and_seconds(variant: str, rate: int, pitch: int) -> tuple[float, float]:
        samples = to_mono_16k(*speak_espeak(root, text, "en-us", variant, rate, pitch))
        measured = measure(samples, text, "speech")
        return float(measured["f0_hz"]), float(measured["duration_seconds"])

    low, slow = pitch_and_seconds("m1", 90, 20)
    high, fast = pitch_and_seconds("m1", 220, 80)
    assert high > 1.3 * low and slow > 1.7 * fast
    assert pitch_and_seconds("f2", 160, 50)[0] > 1.3 * pitch_and_seconds("m1", 160, 50)[0]
    with pytest.raises(ValueError, match="no voice"):
        speak_espeak(root, text, "en-us", "nobody", 160, 50)


@pytest.mark.assets
def test_kokoro_speaks_with_the_gender_of_its_voice(tmp_path: Path, asset: Callable[..., dict[str, Path]]) -> None:
    dirs = asset("kokoro-82m", "espeak-ng")
    cuts = list(REGISTRY["controlled_speech"].prepare(dirs, tmp_path, settings=SETTINGS, clips=6, espeak_clips=4))
    assert len(cuts) == 10
    for cut in cuts:
        supervision = cut.supervisions[0]
        assert supervision.text and supervision.language and supervision.speaker.startswith(("kokoro-", "espeak-"))
        assert 0.8 < cut.duration < 12
    means = {g: np.mean([c.supervisions[0].custom["f0_hz"] for c in cuts if c.supervisions[0].gender == g]) for g in ("male", "female")}
    assert means["female"] > means["male"] + 20


@pytest.mark.assets
def test_phonemes_keep_punctuation_and_use_kokoros_symbols(asset: Callable[..., dict[str, Path]]) -> None:
    from nemo_desta.corpora.speech_engines import phonemise

    root = asset("espeak-ng")["espeak-ng"]
    spoken = phonemise(root, "Hello, my boat is on the high lake!", "en-us")
    assert "," in spoken and spoken.endswith("!")
    assert {"O", "I", "A"} <= set(spoken) and "ː" not in spoken
    assert "-" not in phonemise(root, "Où est la gare ?", "fr")


# --- noisy speech ---------------------------------------------------------------------------------------------------------------------


def test_white_and_pink_noise() -> None:
    white, pink = (coloured_noise(kind, 16000, 3) for kind in ("white", "pink"))
    for noise in (white, pink):
        assert np.mean(noise**2) == pytest.approx(1.0, rel=1e-3)

    def low_share(x: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(x)) ** 2
        return float(power[:1000].sum() / power.sum())

    assert low_share(white) < 0.2 < 0.6 < low_share(pink)
    assert np.array_equal(white, coloured_noise("white", 16000, 3))


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0])
def test_mixture_has_the_wanted_ratio(snr_db: float) -> None:
    speech = np.zeros(32000, dtype=np.float32)
    speech[8000:24000] = 0.2 * np.sin(np.arange(16000) * 0.2)  # half of the clip is a pause, which must not count
    noise = coloured_noise("white", len(speech), 0)
    mixed = mix(speech, noise, snr_db, peak=0.5)
    assert np.abs(mixed).max() == pytest.approx(0.5, rel=1e-4)
    gain = float(np.dot(mixed[8000:24000], speech[8000:24000]) / np.dot(speech[8000:24000], speech[8000:24000]))
    residual = mixed / gain - speech
    assert 10 * np.log10(speech_power(speech) / np.mean(residual**2)) == pytest.approx(snr_db, abs=0.3)


def tiny_corpora(root: Path) -> None:
    """Four voices of three clips (one voice in the test split) and two sounds, prepared by the real code."""
    rng = np.random.default_rng(0)
    sources = []
    for index in range(15):
        voice = index % 5
        speech = np.zeros(32000)
        speech[6000:26000] = 0.3 * np.sin(2 * np.pi * (120 + 30 * voice) * np.arange(20000) / 16000) * (1 + 0.3 * rng.standard_normal())
        path = root / f"raw/{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, speech.astype(np.float32), 16000)
        spoken = {"text": "one two three four", "language": "English", "gender": "male", "speaker": f"v{voice}", "attributes": {"accent": "Scottish"}}
        split = "test" if voice == 0 else "train"
        sources.append(
            ClipSource(id=str(index), audio=path, group=f"v{voice}", domain="speech", licence="L1", attribution="A1", origin=str(index), split=split, **spoken)
        )
    build_cuts("voices", sources, root / "out", SETTINGS)
    sf.write(root / "raw/rain.wav", 0.1 * rng.standard_normal(40000), 16000)
    sound = ClipSource(id="rain", audio=root / "raw/rain.wav", group="rain", domain="sound", licence="L2", attribution="A2", origin="rain", split="train")
    build_cuts("noises", [sound], root / "out", SETTINGS)


def test_noisy_speech_keeps_labels_and_split(tmp_path: Path) -> None:
    tiny_corpora(tmp_path)
    cuts = list(prepare_noisy_speech({}, tmp_path / "out", settings=SETTINGS, clips=12))
    assert {cut.custom["split"] for cut in cuts} == {"train", "test"}
    for cut in cuts:
        supervision, custom = cut.supervisions[0], cut.supervisions[0].custom
        assert (supervision.text, supervision.language, supervision.gender, custom["accent"]) == ("one two three four", "English", "male", "Scottish")
        assert (cut.custom["split"] == "test") == (supervision.speaker == "v0")
        assert custom["noise"] == ("noisy" if "noise_type" in custom else "clean")
        assert custom["noise"] == "clean" or custom["snr_db"] in (0.0, 5.0, 10.0)
        assert cut.custom["license"] == ("L1 AND L2" if custom.get("noise_type") == "environment" else "L1")
        assert cut.custom["split"] == "train" or custom.get("noise_type") != "environment", "the only sound is in the training split"
    assert {cut.supervisions[0].custom["noise"] for cut in cuts} == {"noisy", "clean"}


def test_noisy_speech_from_given_cuts_is_reproducible(tmp_path: Path) -> None:
    tiny_corpora(tmp_path)
    from nemo_desta.corpora.manifests import read_cuts

    parents = read_cuts(tmp_path / "out/voices/cuts.jsonl.gz")
    first, second = (list(prepare_noisy_speech({}, tmp_path / name, settings=SETTINGS, clips=8, cuts=parents)) for name in "ab")
    assert [cut.id for cut in first] == [cut.id for cut in second]
    assert all(np.array_equal(x.load_audio(), y.load_audio()) for x, y in zip(first, second, strict=True))


def test_noisy_speech_without_material(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 0 given clips"):
        prepare_noisy_speech({}, tmp_path, settings=SETTINGS)
    with pytest.raises(ValueError, match="list noisy_speech after them"):
        prepare_noisy_speech({}, tmp_path, settings=SETTINGS, corpora=["asterisk"])


def test_clean_clip_is_only_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = (0.2 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)
    sf.write(path, samples, 16000, subtype="FLOAT")
    out, rate = render_noisy(path, "clean", (), None, 0.6, 0)
    assert rate == 16000 and np.abs(out).max() == pytest.approx(0.6, rel=1e-4)
    assert np.allclose(out / out.max(), samples / samples.max(), atol=1e-4)


def test_a_missing_soundfont_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of the assets"):
        REGISTRY["rendered_instruments"].prepare({"timgm6mb-soundfont": tmp_path}, tmp_path, settings=SETTINGS)
