"""Asterisk prompts: labels from the folder, words from the list, G.722 audio."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from nemo_desta.corpora.asterisk import parse_asterisk, prepare_asterisk, read_transcripts
from nemo_desta.corpora.audio import load_16k
from nemo_desta.corpora.build import BuildSettings


def write_g722(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (np.random.default_rng(1).standard_normal(round(16_000 * seconds)) * 3000).astype(np.int16)
    with av.open(str(path), "w", format="g722") as out:
        stream = out.add_stream("g722", rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = 16_000
        out.mux([*stream.encode(frame), *stream.encode(None)])


def package(root: Path, code: str, voice: str, texts: str, names: list[str]) -> dict[str, Path]:
    doc = root / f"text-{code}/usr/share/doc/asterisk-core-sounds-{code}/core-sounds-{code}.txt.gz"
    doc.parent.mkdir(parents=True)
    doc.write_bytes(gzip.compress(texts.encode()))
    for name in names:
        write_g722(root / f"audio-{code}/usr/share/asterisk/sounds/{voice}/{name}.g722", 0.6)
    return {f"asterisk-core-sounds-{code}": root / f"text-{code}", f"asterisk-core-sounds-{code}-g722": root / f"audio-{code}"}


@pytest.fixture
def dirs(tmp_path: Path) -> dict[str, Path]:
    english = "; comment: not a prompt\n\nadded: Added.\r\ndigits/1: one\nat: At: the tone\n"
    english += "tone: [a tone]\nsilence/1: (one second)\nbeep: beep\nunrecorded: Nobody said this.\n"
    names = ["added", "digits/1", "at", "tone", "silence/1", "beep", "unlisted"]
    return package(tmp_path, "en", "en_US_f_Allison", english, names) | package(tmp_path, "es", "es_MX_f_Allison", "added: Añadido.\n", ["added"])


def test_only_spoken_prompts_have_words(dirs: dict[str, Path]) -> None:
    texts = read_transcripts(dirs["asterisk-core-sounds-en"] / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    assert texts == {"added": "Added.", "digits/1": "one", "at": "At: the tone", "unrecorded": "Nobody said this."}


def test_labels(dirs: dict[str, Path]) -> None:
    clips = {clip.id: clip for clip in parse_asterisk(dirs, ["en", "es"], [])}
    assert sorted(clips) == ["en-added", "en-at", "en-digits/1", "es-added"]
    english, spanish = clips["en-added"], clips["es-added"]
    assert (english.language, english.gender, english.group, english.attributes["accent"]) == ("English", "female", "Allison", "American")
    assert (spanish.language, spanish.text, spanish.group, spanish.attributes["accent"]) == ("Spanish", "Añadido.", "Allison", "Mexican")
    assert spanish.attributes["translation_en"] == "Added." and "translation_en" not in english.attributes
    assert {clip.split for clip in clips.values()} == {"train"}
    assert {clip.split for clip in parse_asterisk(dirs, ["en"], ["Allison"])} == {"test"}


def test_prepare(dirs: dict[str, Path], tmp_path: Path) -> None:
    cuts = prepare_asterisk(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1), languages=["en"])
    assert [cut.id for cut in cuts] == ["asterisk-en-added", "asterisk-en-at", "asterisk-en-digits-1"]
    assert all(cut.duration == pytest.approx(0.6, abs=0.01) for cut in cuts)
    with pytest.raises(ValueError, match="de"):
        prepare_asterisk(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1), languages=["de"])


@pytest.mark.assets
def test_real_package(asset: Callable[..., dict[str, Path]]) -> None:
    dirs = asset("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en")
    clips = list(parse_asterisk(dirs, ["en"], []))
    assert len(clips) == 553
    assert Counter((clip.language, clip.gender, clip.speaker) for clip in clips) == {("English", "female", "asterisk-Allison"): 553}
    clip = next(clip for clip in clips if clip.id == "en-agent-loginok")
    samples = load_16k(clip.audio, format=clip.format)
    assert clip.text == "Agent logged in." and len(samples) / 16_000 == pytest.approx(1.746, abs=0.01)
