"""Shar shards survive what happens to long jobs: dead processes, full disks, bad clips, damaged files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from nemo_desta.data.dataset import load_samples
from nemo_desta.data.supervision import further_clips, self_generated
from nemo_desta.manifests.records import to_cut
from nemo_desta.manifests.shar import SharOptions, write_shar
from nemo_desta.manifests.sources import Problems, cuts, records
from nemo_desta.manifests.validate import validate
from tests.manifests.cuts import cut, manifest, target
from tests.manifests.rows import clip, write_rows
from tools.manifests import main


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    return manifest(tmp_path, [cut(i, tmp_path / "audio", seconds=0.5 + i / 10) for i in range(10)])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "shards").iterdir()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_flac_keeps_every_sample_and_field(tmp_path, ten, jobs):
    index = write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4), num_jobs=jobs)
    assert (index["cuts"], len(index["shards"]), index["skipped"]) == (10, 3, 0) and index["seconds"] == pytest.approx(9.5)
    original = list(records(ten))
    for read in (
        CutSet.from_shar(in_dir=tmp_path / "shar/shards"),
        CutSet.from_shar(fields={f: [str(tmp_path / "shar" / n) for n in names] for f, names in index["fields"].items()}),
    ):
        for before, after in zip(original, read, strict=True):
            assert after.id == before["id"] and after.supervisions[1].custom == before["supervisions"][1]["custom"] and after.custom["domain"] == "speech"
            import soundfile as sf

            assert np.array_equal(after.load_audio()[0], sf.read(before["recording"]["sources"][0]["source"], dtype="float32")[0])
    assert [r["id"] for r in records(tmp_path / "shar")] == [r["id"] for r in original]
    assert not validate(tmp_path / "shar").errors
    assert index["shards"][0]["files"].keys() == {"shards/cuts.000000.jsonl.gz", "shards/recording.000000.tar"}


def test_a_cut_of_a_longer_recording_takes_its_stretch_only(tmp_path):
    made = cut(0, tmp_path, seconds=4.0)
    made |= {"start": 1.0, "duration": 2.0, "supervisions": [{**s, "duration": 2.0} for s in made["supervisions"]]}
    path = manifest(tmp_path, [made])
    write_shar(path, tmp_path / "shar", SharOptions())
    (found,) = CutSet.from_shar(in_dir=tmp_path / "shar/shards")
    import soundfile as sf

    assert np.array_equal(found.load_audio()[0], sf.read(tmp_path / "0.wav", start=16_000, frames=32_000, dtype="float32")[0])


def test_opus_is_small_and_takes_any_rate(tmp_path):
    made = []
    for i, rate in enumerate((16_000, 22_050, 48_000)):
        t = np.arange(3 * rate) / rate
        rng = np.random.default_rng(i)
        import soundfile as sf

        (tmp_path / "a").mkdir(exist_ok=True)
        sf.write(tmp_path / f"a/{i}.wav", 0.3 * np.sin(2 * np.pi * 440 * t) + 0.01 * rng.standard_normal(len(t)), rate)
        one = cut(i, tmp_path / "a", seconds=3.0)
        made.append({**one, "recording": {**one["recording"], "sampling_rate": rate, "num_samples": 3 * rate}})
    path = manifest(tmp_path, made)
    index = write_shar(path, tmp_path / "opus", SharOptions("opus"))
    assert index["skipped"] == 0
    for found in CutSet.from_shar(in_dir=tmp_path / "opus/shards"):
        samples = found.load_audio()[0]
        assert len(samples) == pytest.approx(3 * found.sampling_rate, abs=found.sampling_rate // 50)
        spectrum = np.abs(np.fft.rfft(samples))
        assert np.argmax(spectrum) / (len(samples) / found.sampling_rate) == pytest.approx(440, abs=2)
    flac = write_shar(path, tmp_path / "flac", SharOptions())
    size = {name: sum(f["bytes"] for s in i["shards"] for n, f in s["files"].items() if n.endswith("tar")) for name, i in (("opus", index), ("flac", flac))}
    assert size["opus"] < size["flac"] / 2


def test_unreadable_audio_in_the_middle_is_left_out_and_listed(tmp_path, ten, capsys):
    (tmp_path / "audio/3.wav").write_bytes(b"RIFF")
    (tmp_path / "audio/5.wav").unlink()
    assert main(["shard", "--manifest", str(ten), "--output-dir", str(tmp_path / "shar"), "--shard-size", "4"]) == 1
    printed = capsys.readouterr().out
    assert "left out: c3: unreadable audio" in printed and "2 cuts left out" in printed
    index = json.loads((tmp_path / "shar/index.json").read_text())
    assert [[s["id"] for s in shard["skipped"]] for shard in index["shards"]] == [["c3"], ["c5"], []]
    assert [c.id for c in CutSet.from_shar(in_dir=tmp_path / "shar/shards")] == [f"c{i}" for i in range(10) if i not in (3, 5)]
    assert all(c.load_audio() is not None for c in CutSet.from_shar(in_dir=tmp_path / "shar/shards"))


def test_shar_is_sharded_anew_and_damage_costs_what_is_damaged(tmp_path, ten, capsys):
    write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4))
    for file in (tmp_path / "audio").iterdir():
        file.unlink()
    index = write_shar(tmp_path / "shar", tmp_path / "anew", SharOptions("wav", shard_size=3), num_jobs=2)
    assert (index["cuts"], len(index["shards"]), index["skipped"]) == (10, 4, 0) and not validate(tmp_path / "anew").errors
    for before, after in zip(cuts(tmp_path / "shar"), cuts(tmp_path / "anew"), strict=True):
        assert (after.id, after.supervisions, after.custom["seed_description"]) == (before.id, before.supervisions, before.custom["seed_description"])
        assert np.array_equal(after.load_audio(), before.load_audio())
    tar = tmp_path / "shar/shards/recording.000001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    assert main(["shard", "--manifest", str(tmp_path / "shar"), "--output-dir", str(tmp_path / "rest"), "--shard-size", "3"]) == 1
    printed = capsys.readouterr().out
    assert "left out: c7: unreadable audio (not in the tar file of its shard, which is damaged)" in printed
    kept = [c.id for c in cuts(tmp_path / "rest")]
    assert kept[:4] == ["c0", "c1", "c2", "c3"] and kept[-2:] == ["c8", "c9"] and len(kept) < 10
    with pytest.raises(ValueError, match="another manifest"):
        write_shar(tmp_path / "shar", tmp_path / "anew", SharOptions("wav", shard_size=3))


def test_shards_of_nothing_are_said(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text("")
    assert main(["shard", "--manifest", str(tmp_path / "none.jsonl"), "--output-dir", str(tmp_path / "shar")]) == 1
    assert "none.jsonl gave no cut with audio: the shards are empty" in capsys.readouterr().err


def several(path, tmp_path):
    """The manifest with rows of its first two cuts that also hear others: one of another rate, one a stretch of a longer recording."""
    made = list(records(path))
    long = cut(20, tmp_path / "audio", seconds=4.0, rows=[])
    manifest(tmp_path, [long], "long.jsonl")
    stretch = {**long, "id": "stretch", "start": 1.0, "duration": 2.0}
    clip(tmp_path / "audio/21.wav", 1.0, rate=8000)
    slow = cut(21, tmp_path / "audio", rows=[])
    slow["recording"] |= {"sampling_rate": 8000, "num_samples": 8000}
    asked = [{"role": "user", "content": "<|AUDIO|><|AUDIO|><|AUDIO|>Which is the loudest?"}]
    made[0]["supervisions"] += [target(100, clips=[made[3], stretch], messages=asked), target(101, clips=[stretch, made[1]], messages=asked)]
    made[1]["supervisions"].append(target(102, clips=[slow, made[9]], messages=asked))
    return write_rows(tmp_path / "several.jsonl", made), [made[3], stretch, stretch, made[1], slow, made[9]]


def test_further_clips_of_rows_lie_in_the_shards_too(tmp_path, ten, capsys):
    path, heard = several(ten, tmp_path)
    expected = [to_cut(one).resample(16_000).load_audio()[0] for one in heard]
    index = write_shar(path, tmp_path / "shar", SharOptions(shard_size=4), num_jobs=2)
    assert index["fields"].keys() == {"cuts", "recording", "further_audio"} and (index["rows"], index["skipped_rows"]) == (13, 0)
    assert write_shar(path, tmp_path / "shar", SharOptions(shard_size=4)) == index
    for file in (tmp_path / "audio").iterdir():
        file.unlink()
    read = list(CutSet.from_shar(in_dir=tmp_path / "shar/shards"))
    assert [c.id for c in read] == [c["id"] for c in records(ten)] and not validate(tmp_path / "shar").errors
    found = [other for c in read for row in self_generated(c) for other in further_clips(row, c)]
    assert [c.id for c in found] == [c["id"] for c in heard] and found[0].supervisions[0].text == "words of clip 3"
    for other, samples in zip(found, expected, strict=True):
        assert np.allclose(other.load_audio()[0], samples, atol=2e-4) and load_samples(other).shape == samples.shape
    with pytest.raises(ValueError, match=r"lies in the field further_audio of its Shar shard"):
        further_clips(self_generated(read[0])[1])
    with pytest.raises(ValueError, match="rows about several clips, whose sound cannot be moved"):
        write_shar(tmp_path / "shar", tmp_path / "anew", SharOptions())
    tar = tmp_path / "shar/shards/further_audio.000000.tar"
    tar.write_bytes(tar.read_bytes()[:-20_000])
    assert validate(tmp_path / "shar").errors, "a damaged field is found"


def test_a_row_whose_further_clip_cannot_be_read_is_left_out_and_listed(tmp_path, ten, capsys):
    path, _ = several(ten, tmp_path)
    assert not validate(path, audio="header").errors.keys() & {"missing audio"}
    (tmp_path / "audio/3.wav").unlink()
    (tmp_path / "audio/20.wav").unlink()
    assert any("row row-100, clip stretch" in found for found in validate(path, audio="header").examples["missing audio"])
    assert main(["shard", "--manifest", str(path), "--output-dir", str(tmp_path / "shar")]) == 1
    printed = capsys.readouterr().out
    assert "row left out: row-100: further clip c3: unreadable audio" in printed and "2 rows about several clips left out" in printed
    read = list(CutSet.from_shar(in_dir=tmp_path / "shar/shards"))
    assert [row.id for c in read[:2] for row in self_generated(c)] == ["row-0", "row-1", "row-102"] and len(read) == 9


CHILD = """
import sys, time
from pathlib import Path
from nemo_desta.manifests import shar
fill = shar._fill
def slow(*a):
    print("shard", flush=True); time.sleep(0.3); return fill(*a)
shar._fill = slow
shar.write_shar(Path(sys.argv[1]), Path(sys.argv[2]), shar.SharOptions(shard_size=2))
"""


def test_a_killed_run_goes_on_and_two_runs_exclude_each_other(tmp_path, ten):
    whole = write_shar(ten, tmp_path / "whole", SharOptions(shard_size=2))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(ten), str(tmp_path / "shar")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    with pytest.raises(ValueError, match=f"is being written by process {child.pid}"):
        write_shar(ten, tmp_path / "shar", SharOptions(shard_size=2))
    child.send_signal(signal.SIGKILL)
    child.wait()
    first = tmp_path / "shar/shards/recording.000000.tar"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "shar/index.json").exists()
    counted: list[int] = []
    index = write_shar(ten, tmp_path / "shar", SharOptions(shard_size=2), progress=counted.append)
    assert len(counted) < 5 and first.stat().st_mtime_ns == before and index["shards"] == whole["shards"]
    assert snapshot(tmp_path / "shar") == snapshot(tmp_path / "whole") and not list((tmp_path / "shar").glob(".work*"))
    with pytest.raises(ValueError, match="other options"):
        write_shar(ten, tmp_path / "shar", SharOptions(shard_size=3))


DEADLY = """
import os, signal, sys
from pathlib import Path
from nemo_desta.manifests import shar
write = shar._write_shard
def deadly(task):
    if task[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(task)
shar._write_shard = deadly
try:
    shar.write_shar(Path(sys.argv[1]), Path(sys.argv[2]), shar.SharOptions(shard_size=2), num_jobs=2)
except OSError as error:
    print(error); sys.exit(7)
"""


def test_a_killed_worker_is_a_sentence_and_costs_its_shards_only(tmp_path, ten):
    whole = write_shar(ten, tmp_path / "whole", SharOptions(shard_size=2))
    done = subprocess.run([sys.executable, "-c", DEADLY, str(ten), str(tmp_path / "shar")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 7 and "a process of the pool was killed" in done.stdout and "the same command again" in done.stdout, done.stderr[-2000:]
    assert not (tmp_path / "shar/index.json").exists()
    assert write_shar(ten, tmp_path / "shar", SharOptions(shard_size=2))["shards"] == whole["shards"]
    assert snapshot(tmp_path / "shar") == snapshot(tmp_path / "whole") and not list((tmp_path / "shar").glob(".work*"))


FULL = """
import resource, sys
from pathlib import Path
from nemo_desta.data.dataset import load_samples
from nemo_desta.data.supervision import further_clips, self_generated
from nemo_desta.manifests.records import to_cut
from nemo_desta.manifests.shar import SharOptions, write_shar
resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
try:
    write_shar(Path(sys.argv[1]), Path(sys.argv[2]), SharOptions(shard_size=2), num_jobs=int(sys.argv[3]))
except OSError as error:
    print(error); sys.exit(7)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_full_disk_keeps_finished_shards(tmp_path, jobs):
    path = manifest(tmp_path, [cut(i, tmp_path / "audio", seconds=0.3 if i < 4 else 2.0) for i in range(8)])
    whole = write_shar(path, tmp_path / "whole", SharOptions(shard_size=2))
    done = subprocess.run([sys.executable, "-c", FULL, str(path), str(tmp_path / "shar"), jobs], capture_output=True, text=True, check=False)
    assert done.returncode == 7 and "make room, then run the same command again; finished shards are safe" in done.stdout, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "shar/markers").glob("shard.*")) == ["shard.000000.json", "shard.000001.json"]
    assert not list((tmp_path / "shar").glob(".work*"))
    kept = (tmp_path / "shar/shards/recording.000000.tar").stat().st_mtime_ns
    assert write_shar(path, tmp_path / "shar", SharOptions(shard_size=2))["shards"] == whole["shards"]
    assert (tmp_path / "shar/shards/recording.000000.tar").stat().st_mtime_ns == kept and snapshot(tmp_path / "shar") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("what", ["recording.000001.tar", "cuts.000001.jsonl.gz"])
@pytest.mark.parametrize("at", [0, 0.3, 0.6])
def test_a_truncated_shard_costs_itself_only_and_is_mended(tmp_path, ten, what, at):
    whole = write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4))
    file = tmp_path / "shar/shards" / what
    data = file.read_bytes()
    file.write_bytes(data[: int(at * len(data))])
    problems = Problems()
    found = [c.id for c in cuts(tmp_path / "shar", problems)]
    assert found[:4] == ["c0", "c1", "c2", "c3"] and found[-2:] == ["c8", "c9"] and len(found) < 10
    assert len(problems) >= 1 and "000001" in problems.sentences[0]
    assert validate(tmp_path / "shar").errors
    before = (tmp_path / "shar/shards/recording.000000.tar").stat().st_mtime_ns
    assert write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4))["shards"] == whole["shards"]
    assert (tmp_path / "shar/shards/recording.000000.tar").stat().st_mtime_ns == before
    assert len([c.load_audio() for c in cuts(tmp_path / "shar", Problems())]) == 10


def test_checksums_find_a_flipped_bit(tmp_path, ten):
    write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4))
    file = tmp_path / "shar/shards/recording.000000.tar"
    good = file.read_bytes()
    file.write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
    write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4))
    assert file.read_bytes() != good
    write_shar(ten, tmp_path / "shar", SharOptions(shard_size=4), verify=True)
    assert file.read_bytes() == good


def test_mistakes(tmp_path, ten):
    with pytest.raises(ValueError, match="the formats are flac"):
        write_shar(ten, tmp_path / "x", SharOptions("ogg"))
    for options in (SharOptions(sampling_rate=-5), SharOptions("opus", sampling_rate=22_050)):
        with pytest.raises(ValueError, match=r"sampling rate .*for Opus one of 8000"):
            write_shar(ten, tmp_path / "x", options)
    (tmp_path / "mine").mkdir()
    clip(tmp_path / "mine/song.wav")
    with pytest.raises(ValueError, match=r"holds other files \(song.wav\)"):
        write_shar(ten, tmp_path / "mine", SharOptions())
    twice = manifest(tmp_path, [cut(0, tmp_path / "audio"), cut(0, tmp_path / "audio")], "twice.jsonl")
    index = write_shar(twice, tmp_path / "t", SharOptions())
    assert (index["cuts"], index["shards"][0]["skipped"]) == (1, [{"id": "c0", "reason": "duplicate id"}])
    began = time.monotonic()
    write_shar(twice, tmp_path / "t", SharOptions())
    assert time.monotonic() - began < 2
