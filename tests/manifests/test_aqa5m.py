"""The published set comes in whole, whatever is wrong with single rows, and goes out as it came."""

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet

from nemo_desta.data.conversation import AudioLayout
from nemo_desta.data.dataset import DestaDataset
from nemo_desta.data.supervision import further_clips
from nemo_desta.manifests.aqa5m import check_row, domain_of, is_regular, licence_of, parse_seed, to_rows
from nemo_desta.manifests.aqa5m_export import export_aqa5m
from nemo_desta.manifests.aqa5m_import import PROBLEMS, ImportOptions, import_aqa5m
from nemo_desta.manifests.store import IndexedStore
from tests.manifests.cuts import cut as made_cut
from tests.manifests.rows import TAGGED, clip, read_rows, row, write_rows
from tests.tiny import PLACEHOLDER, tiny_tokenizer
from tools.manifests import main


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    root = tmp_path / "audio"
    for i in range(4):
        clip(root / f"GLOBE/clip_{i}.wav", 1.0 + i / 2, seed=i)
    return root


def listed(store: Path) -> list[tuple[str, int]]:
    return [(p["kind"], p["line"]) for p in read_rows(store / PROBLEMS)] if (store / PROBLEMS).exists() else []


@pytest.mark.parametrize("style", [{}, {"ensure_ascii": True}, {"separators": (",", ":")}], ids=["utf-8", "ascii", "compact"])
def test_what_came_in_goes_out_byte_for_byte(tmp_path, audio, style):
    files = [write_rows(tmp_path / f"in/{name}.jsonl", [row(i % 4) for i in range(n)], **style) for name, n in (("audio.0", 5), ("speech.0", 7))]
    done = import_aqa5m(files, tmp_path / "store", ImportOptions(str(audio)))
    assert (done["rows"], done["lines"]) == (12, 12) and done["counts"]["rows imported"] == 12
    assert done["seconds"] == pytest.approx(sum(1 + i % 4 / 2 for n in (5, 7) for i in range(n)))
    assert export_aqa5m(tmp_path / "store", tmp_path / "out") == {"audio.0": 5, "speech.0": 7}
    for file in files:
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_cut_holds_clip_attributes_and_targets(tmp_path, audio):
    write_rows(tmp_path / "speech.0.jsonl", [row(1), {**row(1), "response": "Another.", "prompt": "And?"}, row(2)])
    import_aqa5m([tmp_path / "speech.0.jsonl"], tmp_path / "store", ImportOptions(str(audio)))
    store = IndexedStore(tmp_path / "store")
    assert store.rows.tolist() == [2, 1] and store.milliseconds.tolist() == [1500, 2000]
    cut = store.cut(0)
    source, first, second = cut.supervisions
    assert (source.text, source.gender, source.custom) == ("Hello there", "male", {"accent": "Indian English", "age": "teens"})
    assert (first.text, second.text, second.custom["prompt"]) == (row(1)["response"], "Another.", "And?")
    assert first.custom["role"] == "self_generated" and first.custom["messages"] == row(1)["messages"]
    assert tuple(cut.custom[k] for k in ("dataset", "domain", "split", "seed_description")) == ("GLOBE", "speech", "train", row(1)["seed_description"])
    assert cut.load_audio().shape == (1, 24_000)
    assert len({s.id for c in (store.cut(0), store.cut(1)) for s in c.supervisions}) == 5


DEFECTIVE = [
    (row(0, id=None), None, "null id"),
    (row(0, messages=[{"role": "user", "content": TAGGED, "audios": [{"audio": None, "text": "a"}]}]), None, "null audio"),
    (row(0, text=None), None, "null text"),
    (row(0, messages=[]), None, "null messages"),
    (row(0, messages=None), None, "null messages"),
    (row(0, dataset=None, name="GLOBE/clip_0.wav"), None, "null dataset"),
    (row(0, seed_description=None), None, "null seed_description"),
    (row(0, prompt=None), None, "null prompt"),
    (row(0, name="GLOBE/clip_0.flac"), None, "other extension"),
    (row(0, response=None), "left out", "null response"),
    (row(0, response=" "), "left out", "null response"),
    (row(0, messages=None, prompt=None), "left out", "neither messages nor prompt"),
    (row(0, id=None, messages=[{"role": "user", "content": TAGGED}]), "left out", "neither id nor audio"),
    (row(0, name="GLOBE/nowhere.wav"), "left out", "missing audio"),
    (row(0, name="GLOBE/broken.wav"), "left out", "unreadable audio"),
    (b'{"id": "GLOBE/clip_0.wav", "dataset": "GLO', "left out", "damaged line"),
    (b'{"id": "\xff"}\n', "left out", "damaged line"),
    (b"[1, 2]\n", "left out", "not an object"),
]


@pytest.mark.parametrize(("bad", "fate", "kind"), DEFECTIVE, ids=[f"{i}-{d[2]}" for i, d in enumerate(DEFECTIVE)])
def test_a_defective_row_is_counted_listed_and_written_back(tmp_path, audio, bad, fate, kind):
    (audio / "GLOBE/broken.wav").write_bytes(b"RIFF and nothing more")
    rows = [row(1), bad, row(2)] if not isinstance(bad, bytes) or bad.endswith(b"\n") else [row(1), row(2), bad]
    source = write_rows(tmp_path / "speech.3.jsonl", rows)
    done = import_aqa5m([source], tmp_path / "store", ImportOptions(str(audio)))
    line = rows.index(bad) + 1
    assert done["counts"][kind] == 1 and (kind, line) in listed(tmp_path / "store")
    kept = [r for r in rows if r is not bad or fate is None]
    assert done["counts"]["rows read"] == 3 and done["counts"].get("rows imported") == len(kept)
    export_aqa5m(tmp_path / "store", tmp_path / "out")
    assert read_rows(tmp_path / "out/speech.3.jsonl") == kept
    for cut in IndexedStore(tmp_path / "store"):  # whatever was null, training gets messages with one locator
        for s in cut["supervisions"][1:]:
            assert sum(m["content"].count("<|AUDIO|>") for m in s["custom"]["messages"]) == 1


@pytest.mark.parametrize(("bad", "code"), [({"seed_description": None}, 0), ({"response": None}, 1)])
def test_the_exit_code_says_whether_rows_were_left_out(tmp_path, audio, bad, code):
    source = write_rows(tmp_path / "speech.3.jsonl", [row(1), row(0, **bad)])
    options = ["--audio-root", str(audio), "--output-dir", str(tmp_path / "store")]
    assert main(["import-aqa5m", "--jsonl", str(source), *options]) == code
    assert main(["import-aqa5m", "--jsonl", str(source), *options]) == code, "the same of what is finished"


def test_extra_fields_and_another_order_survive(tmp_path, audio):
    odd = [dict(reversed(row(0).items())), {**row(1), "split": "train", "score": 1.5}, {k: v for k, v in row(2).items() if k != "prompt"}]
    source = write_rows(tmp_path / "speech.0.jsonl", odd)
    import_aqa5m([source], tmp_path / "store", ImportOptions(str(audio)))
    export_aqa5m(tmp_path / "store", tmp_path / "out")
    assert (tmp_path / "out/speech.0.jsonl").read_bytes() == source.read_bytes()


def test_stereo_and_long_clips(tmp_path):
    clip(tmp_path / "a/two.wav", 1.0, channels=2)
    clip(tmp_path / "a/long.wav", 31.0, rate=8000)
    source = write_rows(tmp_path / "audio.0.jsonl", [row(0, name="two.wav", dataset="GTZAN"), row(1, name="long.wav", dataset="FMA")])
    done = import_aqa5m([source], tmp_path / "store", ImportOptions(str(tmp_path / "a")))
    stereo, long = (IndexedStore(tmp_path / "store").cut(i) for i in range(2))
    assert stereo.load_audio().shape == (2, 16_000) and stereo.domain == "music"
    assert (long.duration, long.load_audio().shape) == (30.0, (1, 240_000)) and done["counts"]["longer than 30 s"] == 1


def test_without_audio_the_time_stamps_give_the_durations(tmp_path):
    source = write_rows(tmp_path / "speech.0.jsonl", [row(0), row(1, seed_description="no stamp")])
    done = import_aqa5m([source], tmp_path / "store", ImportOptions("/nowhere", durations="seed"))
    assert (done["rows"], done["seconds"], done["counts"]["no duration"]) == (1, 2.0, 1)
    with pytest.raises(ValueError, match="no folder /nowhere"):
        import_aqa5m([source], tmp_path / "other", ImportOptions("/nowhere"))


def test_a_truncated_gzip_file_costs_its_end_only(tmp_path, audio):
    packed = gzip.compress(b"".join(json.dumps(row(i % 4)).encode() + b"\n" for i in range(4000)))
    (tmp_path / "speech.0.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    done = import_aqa5m([tmp_path / "speech.0.jsonl.gz"], tmp_path / "store", ImportOptions(str(audio)))
    assert done["counts"]["damaged file"] == 1 and 500 < done["counts"]["rows imported"] < 4000


def test_durations_are_probed_once_in_parallel_and_changed_files_again(tmp_path, audio, monkeypatch):
    import nemo_desta.manifests.durations as durations

    names = [f"GLOBE/clip_{i}.wav" for i in range(4)] + [f"GLOBE/none_{i}.wav" for i in range(200)]
    with durations.DurationCache(audio, tmp_path / "d.sqlite", num_jobs=2) as cache:
        found = cache.lookup(names)
        assert cache.probed == 204 and [found[n].seconds for n in names[:4]] == [1.0, 1.5, 2.0, 2.5] and not found[names[-1]].path
    clip(audio / "GLOBE/clip_0.wav", 3.0)
    with durations.DurationCache(audio, tmp_path / "d.sqlite") as cache:
        assert cache.lookup(names[:4])["GLOBE/clip_0.wav"].seconds == 3.0 and cache.probed == 1
        assert cache.lookup(names[4:5])[names[4]].path == "" and cache.probed == 2  # it may have been fetched since
    (tmp_path / "bad.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match="remove it"), durations.DurationCache(audio, tmp_path / "bad.sqlite"):
        pass


CHILD = """
import sys, time
from pathlib import Path
from nemo_desta.manifests.aqa5m_import import ImportOptions, import_aqa5m
slow = float(sys.argv[4])
import_aqa5m([Path(p) for p in sys.argv[5:]], Path(sys.argv[1]), ImportOptions(sys.argv[2], shard_lines=int(sys.argv[3])),
             progress=lambda n: (print(n, flush=True), time.sleep(slow)))
"""


def snapshot(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.iterdir() if not p.name.startswith((".lock", "durations"))}


def test_a_killed_import_goes_on_and_writes_the_same(tmp_path, audio):
    rows = [row(i % 4) if i % 7 else row(i, name=f"GLOBE/none_{i}.wav") for i in range(60)]
    files = [write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("audio.0", "speech.0")]
    import_aqa5m(files, tmp_path / "whole", ImportOptions(str(audio), shard_lines=10))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "store"), str(audio), "10", "0.3", *map(str, files)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    with pytest.raises(ValueError, match=rf"is being written by process {child.pid} on "):
        import_aqa5m(files, tmp_path / "store", ImportOptions(str(audio), shard_lines=10))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "store/store.json").exists() and (tmp_path / "store/cuts.000000.jsonl").exists()
    before = (tmp_path / "store/cuts.000000.jsonl").stat().st_mtime_ns
    import_aqa5m(files, tmp_path / "store", ImportOptions(str(audio), shard_lines=10))
    assert (tmp_path / "store/cuts.000000.jsonl").stat().st_mtime_ns == before  # kept, not written again
    assert snapshot(tmp_path / "store") == snapshot(tmp_path / "whole")
    began = time.monotonic()
    assert import_aqa5m(files, tmp_path / "store", ImportOptions(str(audio), shard_lines=10))["rows"] == IndexedStore(tmp_path / "store").total_rows
    assert time.monotonic() - began < 1.0
    with pytest.raises(ValueError, match="other inputs or options"):
        import_aqa5m(files[:1], tmp_path / "store", ImportOptions(str(audio), shard_lines=10))


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
from pathlib import Path
from nemo_desta.manifests.aqa5m_import import ImportOptions, import_aqa5m
try:
    import_aqa5m([Path(sys.argv[3])], Path(sys.argv[1]), ImportOptions(sys.argv[2], durations="seed", shard_lines=20))
except OSError as error:
    print(error); sys.exit(7)
"""


def test_a_full_disk_leaves_what_was_committed(tmp_path):
    rows = [row(i) if i < 50 else row(i, response="long " * 3000) for i in range(100)]
    source = write_rows(tmp_path / "speech.0.jsonl", rows)
    import_aqa5m([source], tmp_path / "whole", ImportOptions("/a", durations="seed", shard_lines=20))
    command = [sys.executable, "-c", FULL, str(tmp_path / "store"), "/a", str(source), "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7 and "make room, then run the same command again; the 40 cuts of the finished shards are safe" in done.stdout, done.stderr
    assert not list((tmp_path / "store").glob("*.part"))
    import_aqa5m([source], tmp_path / "store", ImportOptions("/a", durations="seed", shard_lines=20))
    assert snapshot(tmp_path / "store") == snapshot(tmp_path / "whole")


SEEDS = [
    ("[00:00-00:05] Hello world (Gender:Female, Emotion:Happy)", 5.0, {"gender": "Female", "emotion": "Happy"}),
    ("[00:00-00:05] hi (Gender: male, Age: 31 - 45, First Language: English)", 5.0, {"gender": "male", "age": "31 - 45", "first_language": "English"}),
    ("[00:00-00:10] (speech, gush)", 10.0, {"sound": "speech, gush"}),
    ("[00:00-00:18] (Type: ['water', 'toilet flush'])", 18.0, {"sound": "['water', 'toilet flush']"}),
    ("[00:00-00:05] (Number of Speakers: 0, Duration: 5s)", 5.0, {"num_speakers": "0"}),
    (
        '[00:01:00 - 00:01:04]A: "I pull" (Gender:Male, Noise Level: Moderate(Signal-to-Noise Ratio: 15db), Duration: 4s)',
        64.0,
        {"gender": "Male", "noise_level": "Moderate(Signal-to-Noise Ratio: 15db)"},
    ),
    ("[00:00-00:02] yes\n[00:02-00:04] no", 4.0, {}),
    ("", None, {}),
    (None, None, {}),
]


@pytest.mark.parametrize(("text", "seconds", "attributes"), SEEDS)
def test_seed_descriptions(text, seconds, attributes):
    seed = parse_seed(text)
    assert (seed.seconds, seed.attributes) == (seconds, attributes)


@given(st.text(max_size=60))
def test_no_seed_description_breaks_the_parser(text):
    parse_seed(text)
    parse_seed(f"[00:00-00:05] {text} (Gender: {text})")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
MESSAGE = st.fixed_dictionaries(
    {"role": JSON, "content": st.just(TAGGED) | JSON}, optional={"audios": st.lists(st.fixed_dictionaries({"audio": JSON, "text": JSON})) | JSON}
)
ROW = st.fixed_dictionaries(
    {},
    optional={"response": st.just("yes") | JSON, "messages": st.lists(MESSAGE, max_size=2) | JSON, "extra": JSON}
    | dict.fromkeys(("id", "dataset", "seed_description", "prompt"), JSON),
)


@settings(max_examples=150, deadline=None)
@given(ROW)
def test_any_row_is_either_refused_or_written_back(data):
    from nemo_desta.manifests.aqa5m import row_supervision

    reason, audio = check_row(data)
    if reason is None:
        made = row_supervision(data, audio, row_id="r", recording_id="c", seconds=1.0, place=("f", 1))
        custom = {"dataset": data.get("dataset"), "seed_description": data.get("seed_description")}
        assert list(to_rows({"id": "c", "duration": 1.0, "supervisions": [made], "custom": custom})) == [("f", data)]
        assert made["custom"]["messages"] and all(isinstance(m["content"], str) for m in made["custom"]["messages"])


def test_domains():
    assert [domain_of("audio.3", d) for d in ("Nsynth", "GTZAN", "Audioset", "Something")] == ["music", "music", "sound", "sound"]
    assert [licence_of(d) for d in ("GLOBE", "ESC50", "Something")] == ["CC0-1.0", "CC-BY-NC-3.0", "unknown"]
    assert [domain_of("speech.3", d) for d in ("VocalSound", "KeSpeech", "unknown")] == ["sound", "speech", "speech"]
    assert is_regular(row(0)) and not is_regular({**row(0), "x": 1})


def test_our_own_cuts_are_exported_in_the_published_form(tmp_path):
    own = {
        "id": "crema-1",
        "start": 0,
        "duration": 2.0,
        "channel": 0,
        "type": "MonoCut",
        "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "/data/CREMA/1.wav"}], "sampling_rate": 16000, "num_samples": 32000},
        "custom": {"dataset": "CREMA-D", "seed_description": "[00:00-00:02] It is late (Emotion: sad)"},
        "supervisions": [
            {"id": "s", "recording_id": "r", "start": 0, "duration": 2.0, "text": "It is late"},
            {"id": "x", "recording_id": "r", "start": 0, "duration": 2.0, "text": "She is sad.",
             "custom": {"role": "self_generated", "prompt": "How?", "messages": [{"role": "user", "content": "<|AUDIO|>\n\nHow?"}]}},
        ],
    }  # fmt: skip
    source = write_rows(tmp_path / "cuts.jsonl", [own])
    export_aqa5m(source, tmp_path / "out", audio_root="/data")
    (made,) = read_rows(tmp_path / "out/rows.jsonl")
    assert list(made) == ["id", "dataset", "seed_description", "prompt", "response", "messages"]
    assert (made["id"], made["response"]) == ("CREMA/1.wav", "She is sad.")
    assert made["messages"] == [{"role": "user", "content": "<|AUDIO|>\n\nHow?", "audios": [{"audio": "CREMA/1.wav", "text": "It is late"}]}]
    with pytest.raises(ValueError, match="--overwrite"):
        export_aqa5m(source, tmp_path / "out")


def test_a_row_about_several_clips_names_each_of_them(tmp_path):
    first, second = (made_cut(i, tmp_path / "audio") for i in range(2))
    (row_of,) = first["supervisions"][1:]
    row_of["custom"]["messages"] = [{"role": "user", "content": "Clip 1: <|AUDIO|>\nClip 2: <|AUDIO|>\n\nWhich is longer?"}]
    row_of["custom"]["clips"] = [{**second, "supervisions": second["supervisions"][:1]}]
    export_aqa5m(write_rows(tmp_path / "cuts.jsonl", [first]), tmp_path / "out", audio_root=str(tmp_path))
    (made,) = read_rows(tmp_path / "out/rows.jsonl")
    assert made["id"] == "audio/0.wav"
    assert made["messages"][0]["audios"] == [{"audio": f"audio/{i}.wav", "text": f"words of clip {i}"} for i in range(2)]


def test_a_row_about_several_clips_is_imported_with_all_of_them(tmp_path, audio):
    def several(i: int, *names: str) -> dict:
        audios = [{"audio": f"GLOBE/{name}.wav", "text": f"words {n}"} for n, name in enumerate(names)]
        return row(i, messages=[{"role": "user", "content": f"{' and '.join([TAGGED] * len(names))}\n\nCompare.", "audios": audios}])

    rows = [several(0, "clip_0", "clip_1", "clip_2"), several(1, "clip_1", "nowhere"), row(2)]
    done = import_aqa5m([write_rows(tmp_path / "speech.3.jsonl", rows)], tmp_path / "store", ImportOptions(str(audio)))
    assert done["counts"]["several clips"] == 2 and done["counts"]["further clip not heard"] == 1 and done["counts"]["rows imported"] == 3
    store = IndexedStore(tmp_path / "store")
    first, second, third = (store.cut(i).supervisions[1] for i in range(3))
    others = further_clips(first)
    assert [o.recording.sources[0].source for o in others] == [str(audio / f"GLOBE/clip_{i}.wav") for i in (1, 2)]
    assert [o.supervisions[0].text for o in others] == ["words 1", "words 2"] and not further_clips(second) and not further_clips(third)
    step = DestaDataset(tiny_tokenizer(), AudioLayout(PLACEHOLDER, 3), micro_batch_tokens=10_000, max_tokens=900)[
        CutSet.from_cuts(store.cut(i) for i in range(3))
    ]
    assert step.row_ids == [first.id, third.id] and len(step.micro_batches[0].clips) == 3, "clip_2 is heard once for two rows"
    assert "2 <|AUDIO|> locators" in dict(step.skipped)[second.id]
    export_aqa5m(tmp_path / "store", tmp_path / "out")
    assert read_rows(tmp_path / "out/speech.3.jsonl") == rows
