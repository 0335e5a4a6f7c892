"""Tux Paint stamps: descriptions by language, sounds of things, and what is neither."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora.build import BuildSettings
from nemo_desta.corpora.tuxpaint import parse_tuxpaint, prepare_tuxpaint, read_texts


@pytest.fixture
def dirs(tmp_path: Path) -> dict[str, Path]:
    stamps = tmp_path / "usr/share/tuxpaint/stamps"

    def sound(name: str) -> None:
        path = stamps / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(name.encode())
        sf.write(path, np.random.default_rng(seed).standard_normal(44_100) * 0.1, 44_100, subtype="PCM_16" if path.suffix == ".wav" else "VORBIS")

    for name in ("cow_desc.ogg", "cow_desc_fr.ogg", "cow_desc_pt_BR.wav", "cow_desc_de.ogg", "cow_desc_da.ogg.ogg", "cow.ogg", "horse.ogg"):
        sound(f"animals/{name}")
    (stamps / "animals/cow.txt").write_text("A cow.\nfr.utf8=Une  vache.\npt_BR.utf8=Uma vaca.\nde.utf8=Eine Kuh.\nes.utf8=\n", encoding="utf-8")
    sound("animals/untold_desc_fr.ogg")
    sound("symbols/math/7.ogg")
    sound("hobbies/music/string/cello.ogg")
    return {"tuxpaint-stamps-default": tmp_path}


def parse(dirs: dict[str, Path], **options: bool) -> dict:
    chosen = {"voices": True, "sounds": True, **options}
    return {clip.id: clip for clip in parse_tuxpaint(dirs, BuildSettings(), test_languages=["en"], **chosen)}


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("A hen.\nfr.utf8= Une poule. \nes.utf8=\n", encoding="utf-8")
    assert read_texts(tmp_path / "x.txt") == {"en": "A hen.", "fr": "Une poule."}
    assert read_texts(tmp_path / "absent.txt") == {}


def test_voices(dirs: dict[str, Path]) -> None:
    voices = parse(dirs, sounds=False)
    assert {key: (clip.language, clip.text, clip.gender, clip.split) for key, clip in voices.items()} == {
        "en-animals/cow_desc": ("English", "A cow.", None, "test"),
        "fr-animals/cow_desc_fr": ("French", "Une vache.", "male", "train"),
        "pt_BR-animals/cow_desc_pt_BR": ("Portuguese", "Uma vaca.", None, "train"),
    }
    assert voices["fr-animals/cow_desc_fr"].attributes["translation_en"] == "A cow."


def test_sounds(dirs: dict[str, Path]) -> None:
    sounds = parse(dirs, voices=False)
    assert {key: clip.domain for key, clip in sounds.items()} == {
        "sound-animals/cow": "sound",
        "sound-animals/horse": "sound",
        "sound-hobbies/music/string/cello": "music",
    }
    assert sounds["sound-animals/cow"].attributes["sound_class"] == "cow"


def test_prepare(dirs: dict[str, Path], tmp_path: Path) -> None:
    cuts = prepare_tuxpaint(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1))
    assert Counter(cut.custom["domain"] for cut in cuts) == {"speech": 3, "sound": 2, "music": 1}
    assert all(cut.duration == 1.0 for cut in cuts)


@pytest.mark.assets
@pytest.mark.slow  # 161 MB to fetch
def test_real_package(asset: Callable[..., dict[str, Path]]) -> None:
    clips = list(parse_tuxpaint(asset("tuxpaint-stamps-default"), BuildSettings(), voices=True, sounds=True, test_languages=["es", "nl", "en"]))
    languages = Counter(clip.language for clip in clips if clip.domain == "speech")
    expected = {"French": 927, "Russian": 920, "Catalan": 917, "Romanian": 915, "Bulgarian": 912, "Spanish": 890, "Belarusian": 690, "Greek": 659}
    assert {name: languages[name] for name in expected} == expected
    assert languages.total() >= 7304
    assert Counter(clip.domain for clip in clips)["sound"] >= 85
