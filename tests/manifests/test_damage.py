"""Audio that libsndfile does not read, audio that nothing reads, and files whose bytes were changed in the middle."""

import gzip
import json
import sqlite3
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from nemo_desta.manifests.audio_hash import UNHEARD, read_samples, sample_hash, stretch_of
from nemo_desta.manifests.duplicates import read_benchmark
from nemo_desta.manifests.durations import EXTENSIONS, probe
from nemo_desta.manifests.selecting import find
from nemo_desta.manifests.shar import SharOptions, write_shar
from nemo_desta.manifests.sources import Problems, records
from nemo_desta.manifests.validate import validate
from tests.manifests.cuts import cut, manifest
from tests.manifests.rows import clip, read_rows, row, write_rows
from tools.manifests import main

JUNK = {"empty": b"", "noise": np.random.default_rng(0).bytes(20_000), "zeros": bytes(5_000), "text": b"not audio at all\n" * 20}


def aac(path: Path, seconds: float = 1.0, *, seed: int = 0, level: float = 0.3) -> Path:
    """A file of noise that libsndfile does not read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-level, level, (1, round(16_000 * seconds))).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def aac_cut(i: int, root: Path, *, seed: int | None = None, ending: str = "m4a", **options) -> dict:
    """The i-th cut, as the import would make it of an AAC file."""
    info = probe("", str(aac(root / f"{i}.{ending}", seed=i if seed is None else seed)))
    made = cut(i, root, seconds=info.seconds, **options)
    made["recording"]["sources"][0]["source"] = str(root / f"{i}.{ending}")
    made["recording"]["num_samples"] = info.samples
    return made


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("kind", JUNK)
def test_what_is_no_audio_is_unreadable_under_any_extension(tmp_path, kind, extension):
    (tmp_path / f"a{extension}").write_bytes(JUNK[kind])
    info = probe(str(tmp_path), f"a{extension}")
    assert info.path == f"a{extension}" and info.rate == 0 and info.error


def test_an_import_leaves_out_empty_and_garbage_audio_and_ends(tmp_path, capsys):
    clip(tmp_path / "audio/ok.wav")
    names = ["ok.wav"]
    for kind, data in JUNK.items():
        for extension in EXTENSIONS:
            (tmp_path / f"audio/{kind}{extension}").write_bytes(data)
            names.append(f"{kind}{extension}")
    write_rows(tmp_path / "s.jsonl", [row(i, name=name) for i, name in enumerate(names)])
    command = ["import-aqa5m", "--jsonl", str(tmp_path / "s.jsonl"), "--audio-root", str(tmp_path / "audio"), "--output-dir", str(tmp_path / "store")]
    assert main(command) == 1 and "unreadable audio: 40" in capsys.readouterr().out
    assert len(list(records(tmp_path / "store"))) == 1
    with sqlite3.connect(tmp_path / "store/durations.sqlite") as db:
        assert db.execute("SELECT count(*) FROM audio").fetchone() == (41,)


def test_validate_survives_empty_audio(tmp_path):
    made = [cut(i, tmp_path) for i in range(2)]
    for i, ending in enumerate(("ogg", "aac")):
        made[i]["recording"]["sources"][0]["source"] = str(tmp_path / f"{i}.{ending}")
        (tmp_path / f"{i}.{ending}").touch()
    assert validate(manifest(tmp_path, made, audio=False)).errors == {"unreadable audio": 2}


@pytest.mark.parametrize(("ending", "of_a_third"), [("m4a", "unreadable audio"), ("aac", "other duration")])
def test_validate_decodes_what_the_import_accepts(tmp_path, ending, of_a_third):
    made = [aac_cut(i, tmp_path, ending=ending) for i in range(3)]
    path = manifest(tmp_path, made)
    findings = validate(path, audio="decode")
    assert not findings.errors, findings.examples
    aac(tmp_path / f"1.{ending}", level=0.0)
    data = (tmp_path / f"2.{ending}").read_bytes()
    (tmp_path / f"2.{ending}").write_bytes(data[: len(data) // 3])
    assert validate(path, audio="decode").errors == {"silent audio": 1, of_a_third: 1}


@pytest.mark.parametrize("jobs", [1, 2])
def test_aac_is_compared_as_other_audio(tmp_path, jobs, capsys):
    made = [aac_cut(0, tmp_path), aac_cut(1, tmp_path), aac_cut(2, tmp_path, seed=1), cut(3, tmp_path)]
    path = manifest(tmp_path, made)
    common = ["--manifest", str(path), "--num-jobs", str(jobs), "--report", str(tmp_path / "r.json"), "--output"]
    assert main(["dedup", *common, str(tmp_path / "d.jsonl"), "--by", "audio"]) == 0
    assert [r["id"] for r in read_rows(tmp_path / "d.jsonl")] == ["c0", "c1", "c3"]
    assert json.loads((tmp_path / "r.json").read_text())["audio not compared"] == 0
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/q.m4a").write_bytes((tmp_path / "0.m4a").read_bytes())
    assert main(["decontaminate", *common, str(tmp_path / "c.jsonl"), "--benchmark-audio", str(tmp_path / "bench")]) == 0
    assert [r["id"] for r in read_rows(tmp_path / "c.jsonl")] == ["c1", "c2", "c3"]
    assert "audio: 1" in capsys.readouterr().out


def test_audio_that_cannot_be_compared_shows_in_report_and_exit_code(tmp_path, capsys):
    made = [*(cut(i, tmp_path / "audio") for i in range(5)), cut(5, tmp_path / "audio", seconds=2.0)]
    made[3]["recording"]["sources"][0] |= {"type": "command", "source": "cat x.wav"}
    made[4]["supervisions"][-1]["custom"]["clips"] = [{key: value for key, value in made[1].items() if key != "supervisions"}]
    path = manifest(tmp_path, made, audio=False)
    for i in (0, 2, 4):
        clip(tmp_path / f"audio/{i}.wav", seed=i)
    (tmp_path / "audio/1.wav").write_bytes(b"broken")
    common = ["--manifest", str(path), "--report", str(tmp_path / "r.json"), "--output"]
    assert main(["dedup", *common, str(tmp_path / "d.jsonl"), "--by", "audio"]) == 1
    printed = capsys.readouterr()
    assert "audio not compared: 2 of the written cuts" in printed.out and f"c1: audio not compared: {tmp_path}/audio/1.wav" in printed.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["audio not compared"] == 2 and report["problems"]["counts"] == {"audio not compared": 2} and report["kept"] == 6
    clip(tmp_path / "bench/q.wav", seed=2)
    assert main(["decontaminate", *common, str(tmp_path / "c.jsonl"), "--benchmark-audio", str(tmp_path / "bench")]) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["removed"] == {"audio": 1} and report["audio not compared"] == 3, "c1, c3, and the further clip of c4"
    assert [r["id"] for r in read_rows(tmp_path / "c.jsonl")] == ["c0", "c1", "c3", "c4", "c5"]
    assert main(["dedup", *common, str(tmp_path / "i.jsonl"), "--by", "id,row"]) == 0, "no audio is asked for"


def test_a_benchmark_that_cannot_be_heard_is_refused(tmp_path):
    aac(tmp_path / "bench/q.m4a")
    assert len(read_benchmark(audio=[tmp_path / "bench"]).audio) == 1
    data = bytearray((tmp_path / "bench/q.m4a").read_bytes())
    at = data.index(b"mdat") + 4
    data[at : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - at)
    (tmp_path / "bench/q.m4a").write_bytes(data)
    with pytest.raises(ValueError, match=r"q.m4a cannot be decoded .*: mend it, or remove it"):
        read_benchmark(audio=[tmp_path / "bench"])
    (tmp_path / "bench/q.m4a").rename(tmp_path / "named.m4b")
    with pytest.raises(ValueError, match=r"named.m4b cannot be decoded"):
        read_benchmark(audio=[tmp_path / "named.m4b"])
    with pytest.raises(ValueError, match=r"bench holds no audio \(.wav"):
        read_benchmark(audio=[tmp_path / "bench"])


def test_the_audio_of_shar_is_not_compared(tmp_path, capsys):
    write_shar(manifest(tmp_path, [cut(i, tmp_path / "audio") for i in range(2)]), tmp_path / "shar", SharOptions())
    common = ["--manifest", str(tmp_path / "shar"), "--output", str(tmp_path / "o.jsonl")]
    for command in (["dedup", *common, "--by", "audio"], ["decontaminate", *common, "--benchmark-audio", str(tmp_path / "audio")]):
        assert main(command) == 2 and "is a Shar folder, whose audio lies in tar files and is not compared" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists() and main(["dedup", *common]) == 0


def test_texts_with_other_ends_of_lines(tmp_path):
    said = "one\u2028two\u2029three\u0085four"
    write_rows(tmp_path / "q.jsonl", [{"question": said}, {"question": "five"}])
    (tmp_path / "q.txt").write_text(f"{said}\r\nsix\n", encoding="utf-8")
    (tmp_path / "q.csv").write_bytes(b'id,text\r\n1,"seven\r\neight"\r\n2,nine\r\n')
    (tmp_path / "ids.txt").write_text(f"{said}\nten\n", encoding="utf-8")
    found = read_benchmark([tmp_path / "ids.txt"], texts=[tmp_path / "q.jsonl", tmp_path / "q.txt", tmp_path / "q.csv"])
    assert found.texts == [said, "five", said, "six", "seven\r\neight", "nine"] and found.ids == {said, "ten"}


def test_bytes_changed_in_the_middle_of_a_gzip_file_cost_its_end_only(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = manifest(tmp_path, [cut(i, tmp_path / "audio", note=rng.bytes(30_000).hex()) for i in range(20)]).read_bytes()
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    half = packer.compress(lines[: len(lines) // 2]) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(lines[len(lines) // 2 :]) + packer.flush()
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(half + b"\xff" * 8 + rest[8:])  # at the beginning of a block, where that is no kind of block
    with pytest.raises(zlib.error), gzip.open(path) as file:
        file.read()
    problems = Problems()
    left = [r["id"] for r in records(path, problems)]
    assert 0 < len(left) < 20 and problems.counts["damaged file"] == 1
    assert main(["shard", "--manifest", str(path), "--output-dir", str(tmp_path / "shar")]) == 1
    assert "cuts.jsonl.gz: cut off or damaged after line" in capsys.readouterr().err
    assert [r["id"] for r in records(tmp_path / "shar")] == left
    assert find(path, "c0")[0]["id"] == "c0"
    with pytest.raises(ValueError, match=r"neither a cut nor a row 'c19' \(.*cut off or damaged after line"):
        find(path, "c19")


def test_a_damaged_flac_is_unreadable_and_not_compared(tmp_path):
    """FFmpeg, which reads what libsndfile does not know, would make up the samples behind the damage."""
    made = cut(0, tmp_path, seconds=5.0)
    file = tmp_path / "a.flac"
    soundfile.write(file, np.random.default_rng(0).uniform(-0.3, 0.3, 80_000), 16_000)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    made["recording"]["sources"][0]["source"] = str(file)
    with pytest.raises(ValueError, match="damaged behind its header"):
        read_samples(str(file))
    assert sample_hash(stretch_of(made)) == UNHEARD
    assert validate(manifest(tmp_path / "m.jsonl", [made]), audio="decode").errors == {"unreadable audio": 1}
