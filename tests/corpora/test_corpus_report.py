"""The report tool: counts, duplicates across splits, figures, exit codes."""

import copy
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.manifests import write_cuts


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools/corpus_report.py"
    spec = importlib.util.spec_from_file_location("corpus_report", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its worker functions are pickled by name
    spec.loader.exec_module(module)
    return module


def render(seed: int, seconds: float) -> tuple[np.ndarray, int]:
    return (np.random.default_rng(seed).standard_normal(round(16_000 * seconds)) * 0.1).astype(np.float32), 16_000


def clip(identifier: str, split: str, seed: int, text: str | None, seconds: float = 0.5, **fields: object) -> ClipSource:
    given = {"domain": "speech", "licence": "CC0-1.0", "attribution": "test", "origin": identifier, "language": "English", "gender": "male", **fields}
    return ClipSource(id=identifier, audio=partial(render, seed, seconds), group=identifier, split=split, text=text, **given)


def corpus(root: Path, clips: list[ClipSource]) -> Path:
    cuts = list(build_cuts("made", clips, root, BuildSettings(num_jobs=1)))
    for split in ("train", "test"):
        write_cuts(root / f"cuts_{split}.jsonl.gz", [cut for cut in cuts if cut.custom["split"] == split])
    return root


APART = [
    clip("a", "train", 1, "Please enter your number followed by the pound key.", attributes={"accent": "British"}),
    clip("b", "train", 2, "Press one now.", seconds=2.0),
    clip("c", "test", 3, "The weather will be fine on Sunday afternoon."),
    clip("d", "test", 4, "Press one now."),
    clip("e", "train", 5, None, domain="sound", language=None, gender=None, attributes={"sound": "rain"}),
]


def test_a_clean_corpus(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = corpus(tmp_path, APART)
    assert tool.main([str(root), "--output", str(tmp_path / "out"), "--jobs", "1"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    speech = report["splits"]["train"]["speech"]
    assert speech["clips"] == 2 and speech["hours"] == pytest.approx(2.5 / 3600, abs=1e-4)
    assert speech["attributes"]["accent"] == {"British": 1} and speech["attributes"]["language"] == {"English": 2}
    assert speech["histogram"]["<1"] == 1 and speech["histogram"]["<3"] == 1
    assert report["splits"]["train"]["sound"]["attributes"]["sound"] == {"rain": 1}
    assert report["audio_duplicates"] == {"across_splits": [], "within_split": 0, "unreadable": []}
    assert report["transcript_duplicates"] == [], "three words say nothing"
    for name in ("hours", "durations", "attributes"):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "same audio in both splits: 0" in capsys.readouterr().out


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_audio_in_both_splits_is_found(tool: ModuleType, tmp_path: Path, jobs: int) -> None:
    root = corpus(tmp_path, [*APART, clip("copy", "test", 1, None), clip("twin", "train", 2, None, seconds=2.0)])
    assert tool.main([str(root), "--jobs", str(jobs)]) == 1
    report = json.loads((root / "report/report.json").read_text())
    assert report["audio_duplicates"]["across_splits"] == [["made-a", "made-copy"]]
    assert report["audio_duplicates"]["within_split"] == 1


def test_nearly_the_same_transcript_is_found(tool: ModuleType, tmp_path: Path) -> None:
    near = clip("near", "test", 9, "please enter YOUR number, followed by the pound key now")
    far = clip("far", "test", 10, "Your number is followed by another key, please wait for the tone.")
    root = corpus(tmp_path, [*APART, near, far])
    assert tool.main([str(root), "--jobs", "1"]) == 0, "the words may be the same where the voice is not"
    (pair,) = json.loads((root / "report/report.json").read_text())["transcript_duplicates"]
    assert (pair["test"], pair["train"]) == ("made-near", "made-a") and 0.7 <= pair["similarity"] < 1


def test_nearly_the_same_sound_is_found_though_level_and_offset_differ(tool: ModuleType, tmp_path: Path) -> None:
    root = corpus(tmp_path, [*APART, clip("f", "test", 6, None, domain="sound", language=None, gender=None, seconds=0.55)])
    assert tool.main([str(root), "--jobs", "1"]) == 0
    cuts, _ = tool.load(root)
    assert tool.similar_sounds(cuts) == []
    known = next(cut for cut in cuts["train"] if cut.id == "made-e").load_audio()[0]
    near = np.concatenate([np.zeros(800, np.float32), -0.5 * known]) + 0.005 * np.random.default_rng(9).standard_normal(8800).astype(np.float32)
    sf.write(cuts["test"][-1].recording.sources[0].source, near, 16_000)
    (pair,) = tool.similar_sounds(cuts)
    assert (pair["test"], pair["train"]) == ("made-f", "made-e") and 0.95 <= pair["correlation"] < 1
    assert tool.main([str(root), "--jobs", "1"]) == 1


def test_floors_of_a_tier(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = corpus(tmp_path, APART)
    cuts, _ = tool.load(root)
    human, sound = cuts["train"][0], cuts["train"][2]
    music, spoken = copy.deepcopy(sound), copy.deepcopy(human)
    music.custom["domain"], spoken.custom["dataset"] = "music", "controlled_speech"
    enough = {"train": [human] * 9_000 + [sound] * 450, "test": [music] * 300}
    assert tool.below_floors(enough, "lean") == []
    short = {"train": [human] * 8_999 + [spoken] * 500 + [sound] * 449, "test": [music] * 299}
    assert [sentence.partition(" clips")[0] for sentence in tool.below_floors(short, "lean")] == ["human speech: 8999", "sound: 449", "music: 299"]
    assert tool.main([str(root), "--jobs", "1"]) == 0
    assert tool.main([str(root), "--jobs", "1", "--floors", "lean"]) == 1
    assert "fewer than the 9000 of the lean tier" in capsys.readouterr().out


def test_a_group_in_both_splits_is_found(tool: ModuleType, tmp_path: Path) -> None:
    root = corpus(tmp_path, APART)
    cuts, _ = tool.load(root)
    cuts["test"][0].custom["group"] = cuts["train"][0].custom["group"]
    write_cuts(root / "cuts_test.jsonl.gz", cuts["test"])
    assert tool.main([str(root), "--jobs", "1"]) == 1


def test_missing_audio_is_listed_and_a_missing_corpus_said(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = corpus(tmp_path / "corpus", APART)
    (root / "made/audio/made-a.flac").unlink()
    assert tool.main([str(root), "--jobs", "1"]) == 0
    (line,) = json.loads((root / "report/report.json").read_text())["audio_duplicates"]["unreadable"]
    assert line.startswith("made-a (unreadable")
    assert tool.main([str(tmp_path / "nowhere")]) == 2
    assert "run examples/prepare_corpus.py first" in capsys.readouterr().err
