"""The common builder: what it writes, what it skips, and that a run that dies goes on where it was."""

import dataclasses
import errno
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.assets import PACKAGES
from nemo_desta.corpora import build, fingerprint
from nemo_desta.corpora.audio import SAMPLE_RATE
from nemo_desta.corpora.build import BuildSettings, build_cuts, corpus_summary, is_complete
from nemo_desta.corpora.manifests import read_cuts, write_cuts
from tests.conftest import REPOSITORY
from tests.corpora.clips import SETTINGS, noise, render, rendered, source


def skipped(root: Path) -> Counter[str]:
    return Counter(json.loads(line)["reason"] for line in (root / "skipped.jsonl").read_text().splitlines())


def test_a_finished_clip_has_everything_the_source_says(tmp_path: Path) -> None:
    sf.write(tmp_path / "in.wav", np.stack([noise(1.5, 1)] * 2, 1), SAMPLE_RATE, subtype="PCM_24")
    clip = source(
        "a/b ü",
        tmp_path / "in.wav",
        domain="speech",
        text="Hello world, again.",
        language="English",
        gender="female",
        speaker="anna",
        group="anna",
        attributes={"accent": "British", "loudness": "quiet"},
        split="test",
    )
    (cut,) = build_cuts("corpus", [clip], tmp_path / "out", SETTINGS)
    said = cut.supervisions[0]
    assert cut.id == "corpus-a-b"
    assert (said.text, said.language, said.gender, said.speaker) == ("Hello world, again.", "English", "female", "anna")
    assert said.custom["accent"] == "British"
    assert said.custom["loudness"] == "quiet", "what the source says wins over what is measured"
    assert said.custom["duration_seconds"] == 1.5 and "loudness_db" in said.custom
    assert {key: cut.custom[key] for key in ("dataset", "domain", "split", "license", "attribution", "group")} == {
        "dataset": "corpus",
        "domain": "speech",
        "split": "test",
        "license": "CC0-1.0",
        "attribution": "the test",
        "group": "corpus:anna",
    }
    assert cut.load_audio().shape == (1, 24_000)
    assert sf.info(cut.recording.sources[0].source).subtype == "PCM_16"


def test_bad_clips_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"junk" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    sf.write(tmp_path / "nothing.wav", np.zeros(0), SAMPLE_RATE)
    sf.write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    sf.write(tmp_path / "short.wav", noise(0.1), SAMPLE_RATE)
    bad = [source(name, tmp_path / f"{name}.wav") for name in ("junk", "empty", "nothing", "silent", "short", "absent")]
    settings = BuildSettings(num_jobs=1, max_bad_fraction=0.5)
    cuts = build_cuts("corpus", [*rendered(4), *bad], tmp_path, settings)
    assert len(cuts) == 4
    assert skipped(tmp_path / "corpus") == Counter(undecodable=1, empty=2, silent=1, too_short=1, missing=1)
    assert corpus_summary("corpus", tmp_path)["skipped"] == {"undecodable": 1, "empty": 2, "silent": 1, "too_short": 1, "missing": 1}


def test_too_many_bad_clips_are_an_error_that_names_them(tmp_path: Path) -> None:
    missing = [source(f"gone{i}", tmp_path / f"gone{i}.wav") for i in range(3)]
    with pytest.raises(ValueError, match=r"3 of 13 clips .*test: gone0 \(missing"):
        build_cuts("corpus", [*rendered(10), *missing], tmp_path, SETTINGS)
    cuts = build_cuts("corpus", [*rendered(10), *missing], tmp_path, BuildSettings(num_jobs=1, max_bad_fraction=0.3))
    assert len(cuts) == 10


def test_silent_and_short_clips_are_no_error_but_nothing_usable_is(tmp_path: Path) -> None:
    quiet = [source(f"q{i}", partial(render, 0.01, i)) for i in range(3)]
    assert len(build_cuts("some", [*quiet, *rendered(1)], tmp_path, SETTINGS)) == 1
    with pytest.raises(ValueError, match="none of its 3 clips can be used"):
        build_cuts("none", quiet, tmp_path, SETTINGS)


def test_long_recordings_become_windows_of_one_parent(tmp_path: Path) -> None:
    clip = source("long", partial(render, 7.0, 1), domain="speech", text="which words are where?", attributes={"translation_en": "x", "accent": "British"})
    cuts = list(build_cuts("corpus", [clip], tmp_path, BuildSettings(num_jobs=1, max_clip_seconds=3.0)))
    assert [cut.id for cut in cuts] == ["corpus-long-w00", "corpus-long-w01", "corpus-long-w02"]
    assert sum(cut.recording.num_samples for cut in cuts) == 7 * SAMPLE_RATE
    assert max(cut.duration for cut in cuts) <= 3.0
    assert {cut.custom["parent_id"] for cut in cuts} == {"corpus-long"}
    assert cuts[1].custom["parent_start"] == pytest.approx(7 / 3, abs=1e-3)
    assert all(cut.supervisions[0].text is None and "translation_en" not in cut.supervisions[0].custom for cut in cuts)
    joined = np.concatenate([cut.load_audio()[0] for cut in cuts])
    np.testing.assert_allclose(joined, noise(7.0, 1), atol=1e-4)


def test_parallel_and_serial_give_the_same_bytes(tmp_path: Path) -> None:
    for name, jobs in (("one", 1), ("two", 2)):
        build_cuts("corpus", rendered(40, split=None), tmp_path / name, BuildSettings(num_jobs=jobs))
    one, two = ([cut.to_dict() for cut in read_cuts(tmp_path / name / "corpus/cuts.jsonl.gz")] for name in ("one", "two"))
    assert json.dumps(one).replace("/one/", "/two/") == json.dumps(two)
    assert {cut["custom"]["split"] for cut in one} == {"train", "test"}


def test_same_id_twice_and_unknown_domain_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="occur more than once"):
        build_cuts("corpus", [*rendered(1), *rendered(1)], tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="'noise'"):
        source("x", Path("x.wav"), domain="noise")
    with pytest.raises(ValueError, match="'f'"):
        source("x", Path("x.wav"), gender="f")


def test_a_complete_corpus_does_not_even_read_its_sources(tmp_path: Path) -> None:
    build_cuts("corpus", rendered(3), tmp_path, SETTINGS)

    def never():
        raise AssertionError("read again")
        yield

    assert len(build_cuts("corpus", never(), tmp_path, SETTINGS)) == 3
    assert not is_complete("corpus", tmp_path, BuildSettings(num_jobs=1, min_clip_seconds=0.4))
    assert not is_complete("corpus", tmp_path, BuildSettings(num_jobs=1, variant="other options"))
    assert is_complete("corpus", tmp_path, BuildSettings(num_jobs=7))


def test_new_labels_do_not_decode_again_but_new_settings_do(tmp_path: Path) -> None:
    build_cuts("corpus", rendered(3), tmp_path, SETTINGS)
    files = sorted((tmp_path / "corpus/audio").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    labelled = rendered(3, attributes={"sound": "rain"})
    cuts = build_cuts("corpus", labelled, tmp_path, BuildSettings(num_jobs=1, variant="labels"))
    assert [cut.supervisions[0].custom["sound"] for cut in cuts] == ["rain"] * 3
    assert [path.stat().st_mtime_ns for path in files] == before
    assert len(build_cuts("corpus", labelled, tmp_path, BuildSettings(num_jobs=1, max_clip_seconds=0.3, min_clip_seconds=0.2))) == 6


def test_a_finished_corpus_notices_changed_labels_parsers_measures_and_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpora"
    folder.mkdir()
    (folder / "scratch.py").write_text('from nemo_desta.corpora.helper import x\nPATH = "labels.yaml"\n')
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "labels.yaml").write_text("a: b\n")
    (tmp_path / "measure.py").write_text("BOUNDS = 1\n")
    monkeypatch.setattr(fingerprint, "_FOLDER", folder)
    monkeypatch.setattr(fingerprint, "_MEASURE", tmp_path / "measure.py")
    assert [path.name for path in fingerprint.source_files("scratch")] == ["helper.py", "labels.yaml", "scratch.py"]

    def built() -> list[int]:
        build_cuts("scratch", rendered(3), tmp_path / "out", SETTINGS)
        assert is_complete("scratch", tmp_path / "out", SETTINGS)
        return [path.stat().st_mtime_ns for path in sorted((tmp_path / "out/scratch/audio").iterdir())]

    before = built()
    for path in ("corpora/labels.yaml", "corpora/helper.py", "corpora/scratch.py"):
        (tmp_path / path).write_text((tmp_path / path).read_text() + "# changed\n")
        assert not is_complete("scratch", tmp_path / "out", SETTINGS), path
        assert built() == before, "the journal spares the decoding"
    (tmp_path / "measure.py").write_text("BOUNDS = 2\n")
    assert not is_complete("scratch", tmp_path / "out", SETTINGS)
    measured = built()
    assert measured != before, "measured attributes are made again"
    monkeypatch.setitem(PACKAGES, "scratch", dataclasses.replace(PACKAGES["scratch"], sha256="0" * 64))
    assert not is_complete("scratch", tmp_path / "out", SETTINGS)
    assert built() != measured, "another release is another recording"


def test_the_files_of_a_recipe_hold_its_labels() -> None:
    assert {"opensfx.py", "sound_classes.py", "sound_labels.yaml", "splits.py"} <= {path.name for path in fingerprint.source_files("opensfx")}
    assert {"controlled_speech.yaml", "speech_engines.py"} <= {path.name for path in fingerprint.source_files("controlled_speech")}


def test_a_moved_corpus_gets_its_paths_right(tmp_path: Path) -> None:
    build_cuts("corpus", rendered(2), tmp_path / "old", SETTINGS)
    (tmp_path / "old").rename(tmp_path / "new")
    cuts = build_cuts("corpus", rendered(2), tmp_path / "new", SETTINGS)
    assert all(cut.load_audio().shape == (1, 8000) for cut in cuts)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    build_cuts("corpus", rendered(3), tmp_path, SETTINGS)
    victim = tmp_path / "corpus/audio/corpus-clip001.flac"
    victim.write_bytes(victim.read_bytes()[:50])
    (tmp_path / "corpus/.completed").unlink()
    cuts = build_cuts("corpus", rendered(3), tmp_path, SETTINGS)
    assert [cut.load_audio().shape for cut in cuts] == [(1, 8000)] * 3


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = build.write_flac, []

    def full_after_five(path: Path, samples: np.ndarray) -> int:
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, samples)

    monkeypatch.setattr(build, "write_flac", full_after_five)
    with pytest.raises(OSError, match="Finished clips are kept") as caught:
        build_cuts("corpus", rendered(9), tmp_path, SETTINGS)
    assert caught.value.errno == errno.ENOSPC
    assert not is_complete("corpus", tmp_path, SETTINGS)

    monkeypatch.setattr(build, "write_flac", write)
    before = {path: path.stat().st_mtime_ns for path in written}
    assert len(build_cuts("corpus", rendered(9), tmp_path, SETTINGS)) == 9
    assert {path: path.stat().st_mtime_ns for path in written} == before


def test_a_read_only_folder_is_an_error_with_its_name(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "corpus").write_text("a file where the folder should be")  # root may write anywhere
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="corpus"):
        build_cuts("corpus", rendered(1), tmp_path, SETTINGS)
    tmp_path.chmod(0o700)


_CHILD = """
import sys
from pathlib import Path
from nemo_desta.corpora.build import BuildSettings, build_cuts
from tests.corpora.clips import rendered
build_cuts("corpus", rendered(120, delay=0.02), Path(sys.argv[1]), BuildSettings(num_jobs=2))
"""


def test_kill_in_the_middle_then_resume(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path / "out")], cwd=REPOSITORY, start_new_session=True)
    journal = tmp_path / "out/corpus/journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_text().count("\n") >= 16):
        assert child.poll() is None and time.monotonic() < deadline, "the child ended before it was killed"
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    journal.write_text(journal.read_text() + '{"slug": "corpus-clip0')  # as a kill in the middle of a line leaves it
    finished = [json.loads(line)["clips"][0]["file"] for line in journal.read_text().splitlines()[:-1]]
    assert 16 <= len(finished) < 120
    before = {name: (tmp_path / "out/corpus" / name).stat().st_mtime_ns for name in finished}

    cuts = list(build_cuts("corpus", rendered(120), tmp_path / "out", BuildSettings(num_jobs=2)))
    assert [cut.id for cut in cuts] == [f"corpus-clip{i:03d}" for i in range(120)]
    assert {name: (tmp_path / "out/corpus" / name).stat().st_mtime_ns for name in finished} == before
    np.testing.assert_allclose(cuts[119].load_audio()[0], noise(0.5, 119), atol=1e-4)


# --- manifests ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_a_truncated_last_line_costs_one_cut(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    write_cuts(tmp_path / name, build_cuts("corpus", rendered(3), tmp_path, SETTINGS))
    content = (tmp_path / name).read_bytes()
    text = gzip.decompress(content) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(gzip.compress(text[:-40]) if name.endswith(".gz") else text[:-40])
    problems: list[str] = []
    with caplog.at_level(logging.WARNING):
        cuts = read_cuts(tmp_path / name, problems=problems)
    assert [cut.id for cut in cuts] == ["corpus-clip000", "corpus-clip001"]
    assert len(problems) == 1 and "line 3" in problems[0]
    assert "2 cuts read, 1 problems" in caplog.text


def test_unknown_fields_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [cut.to_dict() for cut in build_cuts("corpus", rendered(3), tmp_path, SETTINGS)]
    for line in lines:
        line["colour"] = "blue"
        line["supervisions"][0]["mood"] = 1
        line["recording"]["codec"] = "flac"
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems: list[str] = []
    cuts = read_cuts(tmp_path / "x.jsonl", problems=problems)
    assert len(cuts) == 3
    assert [problem.partition("unknown field ")[2] for problem in problems] == [
        f"'{name}' left out of 3 cuts" for name in ("colour", "recording.codec", "supervision.mood")
    ]


def test_a_file_without_a_single_cut_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match="holds no readable cut"):
        read_cuts(tmp_path / "x.jsonl")
    with pytest.raises(FileNotFoundError):
        read_cuts(tmp_path / "absent.jsonl.gz")
