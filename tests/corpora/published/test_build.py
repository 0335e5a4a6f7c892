"""What all recipes share: windows, skips, parallel reading, measured attributes, files."""

import errno
import gzip
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from lhotse import CutSet

import nemo_desta.corpora
from nemo_desta.corpora.published import build, get, prepare_crema_d, prepare_iemocap, preparer, registry
from nemo_desta.corpora.published.base import Entry, Part, Skips
from nemo_desta.corpora.published.build import clip_windows, reseed
from nemo_desta.corpora.published.layout import locate, read_table, split_of, youtube_id
from nemo_desta.corpora.published.vocabulary import LANGUAGES, emotion, gender
from nemo_desta.locking import exclusive
from tests.corpora.published.cases_acted import CASES
from tests.corpora.published.cases_varied import CASES as VARIED
from tests.corpora.published.tree import BROKEN, plant

DEMOGRAPHICS = "ActorID,Age,Sex,Race,Ethnicity\n" + "".join(f"{1000 + i},{20 + i},Female,Asian,Not Hispanic\n" for i in range(40))


@pytest.fixture
def crema(tmp_path: Path) -> Path:
    clips = {f"AudioWAV/{1000 + i}_{sentence}_HAP_LO.wav": 0.5 for i in range(40) for sentence in ("IEO", "TIE")}
    return plant(tmp_path / "CREMA-D", {"VideoDemographics.csv": DEMOGRAPHICS, **clips})


def test_processes_change_nothing(crema: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        prepare_crema_d(crema, tmp_path / str(jobs), num_jobs=jobs)
    one, two = ((tmp_path / str(jobs) / "crema_d" / "cuts.jsonl.gz").read_bytes() for jobs in (1, 2))
    assert one == two and len(gzip.decompress(one).splitlines()) == 80


def test_without_an_output_folder_the_cuts_are_held_in_memory(crema: Path, tmp_path: Path) -> None:
    held = prepare_crema_d(crema)
    written = prepare_crema_d(crema, tmp_path / "out")
    assert held.is_lazy is False and [cut.to_dict() for cut in held] == [cut.to_dict() for cut in written]
    assert {cut.custom["origin"] for cut in held} == {path.relative_to(crema).as_posix() for path in crema.rglob("*.wav")}


def test_a_record_says_where_the_cuts_come_from(crema: Path, tmp_path: Path) -> None:
    prepare_crema_d(crema, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "crema_d" / "prepared.json").read_text())
    assert record["clips"] == 80 and record["hours"] == pytest.approx(40 / 3600, abs=1e-4) and record["skipped"] == {}
    assert record["inputs"]["cuts"]["sha256"] and record["config"]["corpus_dir"] == str(crema) and record["code"]


def test_too_many_bad_entries_are_an_error_that_names_some(crema: Path, tmp_path: Path) -> None:
    before = prepare_crema_d(crema, tmp_path / "out")
    kept = (tmp_path / "out" / "crema_d" / "cuts.jsonl.gz").read_bytes()
    assert len(list(before)) == 80
    for path in sorted(crema.rglob("*.wav"))[:8]:
        path.write_bytes(BROKEN)
    with pytest.raises(ValueError, match=r"crema_d: 8 of 80 entries .* max_bad_fraction=0\.05: 1000_IEO_HAP_LO \(unreadable"):
        prepare_crema_d(crema, tmp_path / "out")
    assert (tmp_path / "out" / "crema_d" / "cuts.jsonl.gz").read_bytes() == kept, "an earlier result is not spoilt by a failed run"
    assert not (tmp_path / "out" / "crema_d" / "prepared.json").exists() and not list(tmp_path.rglob("*.part"))
    assert len(list(prepare_crema_d(crema, tmp_path / "out", max_bad_fraction=0.2))) == 72


def test_nothing_usable_is_an_error(crema: Path, tmp_path: Path) -> None:
    shutil.rmtree(crema / "AudioWAV")
    (crema / "AudioWAV").mkdir()
    with pytest.raises(ValueError, match="no clip can be used"):
        prepare_crema_d(crema, tmp_path / "out")


def test_two_runs_do_not_write_the_same_folder(crema: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out" / "crema_d"), pytest.raises(ValueError, match=f"crema_d is being written by process {os.getpid()} on "):
        prepare_crema_d(crema, tmp_path / "out")


@pytest.mark.parametrize("fault", ["a killed worker", "a full disk"])
def test_a_failing_machine_is_a_sentence_and_spoils_nothing(crema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    prepare_crema_d(crema, tmp_path / "out")
    kept = (tmp_path / "out" / "crema_d" / "cuts.jsonl.gz").read_bytes()

    def killed(self: object, entries: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"torn")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((build._Worker, "__call__", killed) if fault == "a killed worker" else (build, "_stream", full)))
        with pytest.raises(OSError, match=r"was killed .*the same command again|cannot write .*make room, then run the same command again"):
            prepare_crema_d(crema, tmp_path / "out", num_jobs=2)
    assert (tmp_path / "out" / "crema_d" / "cuts.jsonl.gz").read_bytes() == kept and not list(tmp_path.rglob("*.part"))
    prepare_crema_d(crema, tmp_path / "out", num_jobs=2)
    assert (tmp_path / "out" / "crema_d" / "cuts.jsonl.gz").read_bytes() == kept and json.loads((tmp_path / "out/crema_d/prepared.json").read_text())[
        "clips"
    ] == 80


def test_an_id_that_stands_twice_is_taken_once_and_listed(crema: Path, tmp_path: Path) -> None:
    again = crema / "AudioWAV" / "again" / "1000_IEO_HAP_LO.wav"
    again.parent.mkdir()
    shutil.copy(crema / "AudioWAV" / again.name, again)
    cuts = list(prepare_crema_d(crema, tmp_path / "out"))
    assert len({cut.id for cut in cuts}) == len(cuts) == 80
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "crema_d" / "skipped.jsonl").read_text("utf-8").splitlines())
    assert (row["reason"], row["where"]) == ("duplicate", "crema_d-1000_IEO_HAP_LO")


def test_unknown_options_and_names_are_named(crema: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown options \['mike'\]"):
        prepare_crema_d(crema, tmp_path / "out", mike="x")
    with pytest.raises(ValueError, match=r"no published corpus is called 'cremad': there are .*crema_d"):
        get("cremad")
    with pytest.raises(ImportError):
        from nemo_desta.corpora import prepare_cremad  # noqa: F401


def test_recipes_can_be_imported_by_name() -> None:
    assert nemo_desta.corpora.prepare_crema_d is prepare_crema_d
    for name in registry():
        assert preparer(name).__name__ == f"prepare_{name}"  # type: ignore[attr-defined]


def test_measured_attributes_complete_the_seed(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "iemocap")
    root = plant(tmp_path / "iemocap", case.tree)
    (cut,) = prepare_iemocap(root, tmp_path / "out", max_bad_fraction=0.9)
    seed = cut.custom["seed_description"]
    # The made tone has 180 Hz and some -15 dBFS; two words are too few to measure a rate.
    assert seed == "[00:00-00:02] Excuse me? (Emotion: neutral, Gender: female, Pitch: medium, Volume: medium, Duration: 2 seconds)"


def test_a_tagger_completes_the_seed_in_the_papers_form(tmp_path: Path) -> None:
    case = next(case for case in VARIED if case.name == "accent_db")
    cuts = preparer("accent_db")(plant(tmp_path / "a", case.tree), tmp_path / "out", max_bad_fraction=0.9)
    (cut,) = cuts
    cut.supervisions[0].text = "The hogs were fed chopped corn and garbage."
    cut.supervisions[0].gender = "female"
    cut.supervisions[0].custom["emotion"] = "neutral"
    assert reseed(cut).custom["seed_description"] == (
        "[00:00-00:04] The hogs were fed chopped corn and garbage. (Accent: American, Gender: female, Emotion: neutral, Duration: 4 seconds)"
    )


def test_audio_in_parquet_files_is_unpacked_once_as_it_is(tmp_path: Path) -> None:
    case = next(case for case in VARIED if case.name == "globe")
    root = plant(tmp_path / "globe", case.tree)
    with pytest.raises(ValueError, match="name an output_dir"):
        preparer("globe")(root)
    (cut,) = preparer("globe")(root, tmp_path / "out", max_bad_fraction=0.9)
    audio = Path(cut.recording.sources[0].source)
    assert audio == tmp_path / "out" / "globe" / "audio" / "test-00000-of-00001" / "000000-clip.wav"
    written = audio.stat().st_mtime_ns
    preparer("globe")(root, tmp_path / "out", max_bad_fraction=0.9)
    assert audio.stat().st_mtime_ns == written


def test_long_recordings_become_equal_windows_without_words() -> None:
    windows = clip_windows(Entry(id="a", audio=Path("a.wav"), text="many words"), 65.0, 30.0)
    assert [(round(w.start, 3), round(w.end, 3)) for w in windows] == [(0.0, 21.667), (21.667, 43.333), (43.333, 65.0)]
    assert [w.parts[0].text for w in windows] == [None] * 3
    (whole,) = clip_windows(Entry(id="a", audio=Path("a.wav"), text="words", start=2.0), 32.0, 30.0)
    assert (whole.start, whole.end, whole.parts[0].text) == (2.0, 32.0, "words")


def test_turns_are_grouped_and_never_cut() -> None:
    turns = tuple(Part(start=a, end=b, text=str(a)) for a, b in ((0, 10), (8, 20), (21, 31), (40, 75), (76, 77), (200, 210)))
    windows = clip_windows(Entry(id="m", audio=Path("m.wav"), parts=turns), 100.0, 30.0)
    assert [(w.start, w.end, [p.text for p in w.parts]) for w in windows] == [
        (0, 20, ["0", "8"]),
        (21, 31, ["21"]),
        (40, 57.5, [None]),
        (57.5, 75, [None]),
        (76, 77, ["76"]),
    ], "a turn longer than a clip is divided and loses its words; one behind the recording's end is left out"


def test_the_folder_above_a_corpus_will_do(tmp_path: Path) -> None:
    plant(tmp_path, {"inner/a/x.csv": "", "other/y.txt": ""})
    assert locate(tmp_path, "a/*.csv|b") == tmp_path / "inner"
    with pytest.raises(ValueError, match=r"expected c, a; not there: c, a; found: inner/, other/"):
        locate(tmp_path, "c", "a")


def test_tables_survive_what_datasets_do_to_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfid, text \n1,"a, b"\n2\n\n3,caf\xe9\0\n4,x,more\n')
    skips = Skips()
    rows = list(read_table(tmp_path / "t.csv", skips, ("id", "text")))
    assert [(row["id"], row["text"]) for row in rows] == [("1", "a, b"), ("3", "caf\ufffd"), ("4", "x")]
    assert skips.counts() == {"broken_row": 1}
    with pytest.raises(ValueError, match=r"expected the columns id, gender; not there: gender; found: \['id', 'text'\]"):
        list(read_table(tmp_path / "t.csv", skips, ("id", "gender")))


@pytest.mark.parametrize(
    ("name", "split"),
    [("train-00000-of-00001", "train"), ("dev-clean", "validation"), ("Test", "test"), ("Validation", "validation"), ("eval", "test"), ("ENGLISH", "train")],
)
def test_splits_by_name(name: str, split: str) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("stem", ["abcdefghijk", "Yabcdefghijk", "abcdefghijk_30.000", "Yabcdefghijk_30_40"])
def test_videos_by_file_name(stem: str) -> None:
    assert youtube_id(stem) == "abcdefghijk"


def test_vocabulary() -> None:
    assert [gender(word) for word in ("F", "male_masculine", "Woman", "other", None, "")] == ["female", "male", "female", None, None, None]
    assert [emotion(word) for word in ("ANG", "Anger", "no emotion", "xxx", "", "Whispering")] == ["angry", "angry", "neutral", None, None, "whispering"]
    assert len(set(LANGUAGES) - {"he", "jv", "yue", "zh-CN", "zh-TW", "zh-HK"}) == 107


def test_a_corpus_is_read_lazily(crema: Path, tmp_path: Path) -> None:
    cuts = prepare_crema_d(crema, tmp_path / "out")
    assert isinstance(cuts, CutSet) and cuts.is_lazy
