"""Fish Fillets: pairs of dialogId and dialogStr, characters by font, voices held out as a whole."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora.audio import load_16k
from nemo_desta.corpora.build import BuildSettings
from nemo_desta.corpora.fillets import parse_fillets, prepare_fillets, read_dialogues

SCRIPT = r"""
-- a comment
dialogId("m-one", "font_small", "She said \"go\".")
dialogStr("Řekla: \"Jdi\".")

dialogId("v-two", "font_big",
    "Two lines.")
dialogStr("Dva
řádky v C:\\WINDOWS.")

dialogId("s-three", "font_statue", "Not translated.")
dialogId("s-four", "font_statue", "Welcome.")
dialogStr("Vítejte.")
dialogId("v-empty", "font_big", "Nothing.")
dialogStr("")
"""


@pytest.fixture
def dirs(tmp_path: Path) -> dict[str, Path]:
    game = "usr/share/games/fillets-ng"
    for code in ("cs", "nl"):
        script = tmp_path / "scripts" / game / f"script/city/dialogs_{code}.lua"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(SCRIPT, encoding="utf-8")
        for name in ("m-one", "v-two", "s-three", "s-four", "unlisted"):
            path = tmp_path / code / game / f"sound/city/{code}/{name}.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, np.random.default_rng(0).standard_normal((22_050, 2)) * 0.1, 22_050, subtype="VORBIS")
        (tmp_path / code / game / "sound/noscript" / code).mkdir(parents=True)
    return {"fillets-ng-data": tmp_path / "scripts", "fillets-ng-data-cs": tmp_path / "cs", "fillets-ng-data-nl": tmp_path / "nl"}


def test_script(dirs: dict[str, Path]) -> None:
    lines = read_dialogues(dirs["fillets-ng-data"] / "usr/share/games/fillets-ng/script/city/dialogs_cs.lua")
    assert {key: (line.font, line.text, line.english) for key, line in lines.items()} == {
        "m-one": ("font_small", 'Řekla: "Jdi".', 'She said "go".'),
        "v-two": ("font_big", "Dva řádky v C:\\WINDOWS.", "Two lines."),
        "s-four": ("font_statue", "Vítejte.", "Welcome."),
    }


def test_characters_and_splits(dirs: dict[str, Path]) -> None:
    clips = {clip.id: clip for clip in parse_fillets(dirs, ["cs", "nl"], ["cs:side", "nl:font_small"])}
    assert {key: (clip.gender, clip.split) for key, clip in clips.items()} == {
        "cs-city-m-one": ("female", "train"),
        "cs-city-v-two": ("male", "train"),
        "cs-city-s-four": (None, "test"),
        "nl-city-m-one": ("female", "test"),
        "nl-city-v-two": ("male", "train"),
        "nl-city-s-four": (None, "train"),
    }
    assert clips["nl-city-m-one"].group != clips["cs-city-m-one"].group, "the actors differ"
    assert clips["cs-city-m-one"].attributes["translation_en"] == 'She said "go".'


def test_prepare(dirs: dict[str, Path], tmp_path: Path) -> None:
    cuts = prepare_fillets(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1))
    assert len(cuts) == 6
    assert Counter(cut.supervisions[0].language for cut in cuts) == {"Czech": 3, "Dutch": 3}
    assert all(cut.duration == pytest.approx(1.0, abs=0.01) for cut in cuts)
    with pytest.raises(ValueError, match="pl"):
        prepare_fillets(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1), languages=["pl"])


@pytest.mark.assets
def test_real_package(asset: Callable[..., dict[str, Path]]) -> None:
    dirs = asset("fillets-ng-data", "fillets-ng-data-cs", "fillets-ng-data-nl")
    clips = list(parse_fillets(dirs, ["cs", "nl"], ["cs:side", "nl:font_small"]))
    assert Counter((clip.language, clip.gender, clip.split) for clip in clips) == {
        ("Czech", "female", "train"): 730,
        ("Czech", "male", "train"): 691,
        ("Czech", None, "test"): 293,
        ("Dutch", "female", "test"): 784,
        ("Dutch", "male", "train"): 744,
    }
    assert all(clip.text and clip.attributes["translation_en"] for clip in clips)
    clip = next(clip for clip in clips if clip.id == "cs-airplane-let-v-vrak0")
    assert clip.text == "To je vrak dopravního letadla LC-10 Lemura."
    assert len(load_16k(clip.audio)) / 16_000 == pytest.approx(4.226, abs=0.01)
