"""A tagging run: in order, resumable to the byte, one bad clip costs itself only."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.locking import locked_file
from nemo_desta.manifests import tagging as run_module
from nemo_desta.manifests.sinks import open_sink
from nemo_desta.manifests.tagging import TagJob, tag_manifest
from nemo_desta.seed.taggers import Clip, Tag, Tagger, Tags
from tests.tiny import read_json, tone_cut
from tools.tag_cuts import main

ROOT = Path(__file__).resolve().parents[2]


class Counting:
    """Says how many samples a clip has; dies or refuses on demand."""

    name, domains = "counting-1", frozenset({"sound"})

    def __init__(self, die_at: str = "") -> None:
        self.die_at = die_at

    def tag(self, clips: Sequence[Clip]) -> list[Tags]:
        if any(clip.cut_id == self.die_at for clip in clips) and os.environ.get("TAGGER_DIES"):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(len(clip.samples_N) < 100 for clip in clips):
            raise ValueError("too short to count")
        return [{"samples": Tag(len(clip.samples_N), 1.0)} for clip in clips]


def build(spec: str) -> Tagger:
    return Counting(spec.partition(":")[2])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "cuts.jsonl.gz"
    write_cuts(path, [tone_cut(tmp_path / "audio", i, 0.2 + 0.01 * i) for i in range(11)])
    return path


def job(source: Path, name: str = "tagged.jsonl.gz", **changes: Any) -> TagJob:
    return TagJob(**{"source": source, "target": source.parent / name, "taggers": ("counting",), "build": build, "batch": 3, **changes})


def samples(path: Path) -> list[tuple[str, int | None]]:
    return [(cut.id, (cut.supervisions[0].custom or {}).get("samples")) for cut in read_cuts(path)]


def test_every_clip_is_tagged_in_order_whatever_the_processes(source: Path) -> None:
    summary = tag_manifest(job(source))
    assert samples(source.parent / "tagged.jsonl.gz") == [(f"tone-{i}", int((0.2 + 0.01 * i) * 16_000)) for i in range(11)]
    assert summary["clips"] == 11 and summary["values"] == {"counting-1: samples": 11, "used": 11, "values": 11} and summary["clips_per_second"] > 0
    tag_manifest(job(source, "two.jsonl.gz", jobs=2))
    assert (source.parent / "two.jsonl.gz").read_bytes() == (source.parent / "tagged.jsonl.gz").read_bytes()
    assert read_json(source.parent / "tagged.jsonl.gz.manifest.json")["job"]["taggers"] == ["counting"]
    assert tag_manifest(job(source)) == summary, "a complete one is left alone"
    assert not list(source.parent.glob("*.part")) and not list(source.parent.glob("*.progress"))


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(source: Path) -> None:
    tag_manifest(job(source, "whole.jsonl"))
    code = f"from tests.manifests.test_tagging import *; tag_manifest(job(Path({str(source)!r}), 'killed.jsonl', taggers=('counting:tone-7',)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TAGGER_DIES": "1"}, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    part = source.parent / "killed.jsonl.part"
    assert part.read_bytes().count(b"\n") == 6
    with open(part, "ab") as file:
        file.write(b'{"id": "torn')
    with open(source.parent / "killed.jsonl.progress", "ab") as file:
        file.write(b'{"lines": 9, "byt')
    tag_manifest(job(source, "killed.jsonl", taggers=("counting:tone-7",)))
    assert (source.parent / "killed.jsonl").read_bytes() == (source.parent / "whole.jsonl").read_bytes()


def test_a_progress_without_its_cuts_is_not_believed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tag_manifest(job(source, "whole.jsonl"))
    monkeypatch.setattr(run_module, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tag_manifest(job(source, "lost.jsonl"))
    monkeypatch.undo()
    os.truncate(source.parent / "lost.jsonl.part", 5_00)
    tag_manifest(job(source, "lost.jsonl"))
    assert (source.parent / "lost.jsonl").read_bytes() == (source.parent / "whole.jsonl").read_bytes()


def test_bad_clips_and_lines_are_passed_on_counted_and_listed(source: Path) -> None:
    audio = source.parent / "audio"
    (audio / "tone2.flac").unlink()
    (audio / "tone3.flac").write_bytes(b"fLaC junk")
    soundfile.write(audio / "tone4.flac", np.full(3_840, np.nan), 16_000, format="WAV", subtype="FLOAT")
    lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    short = json.loads(lines[5]) | {"duration": 0.005}
    lines = [*lines[:5], json.dumps(short), *lines[6:], '{"id": "torn', '{"no": "cut"}', ""]
    source.write_bytes(gzip.compress("\n".join(lines).encode()))
    summary = tag_manifest(job(source))
    assert summary["clips"] == 11 and summary["problems"] == 6
    problems = (source.parent / "tagged.jsonl.gz.problems.txt").read_text()
    assert "tone-2: undecodable" in problems and "tone-5: counting-1: too short to count" in problems and problems.count("not a cut") == 2
    assert [name for name, n in samples(source.parent / "tagged.jsonl.gz") if n is None] == ["tone-2", "tone-3", "tone-4", "tone-5"]


def test_a_store_is_a_source_and_a_damaged_file_costs_its_end_only(source: Path) -> None:
    tag_manifest(job(source, "whole.jsonl.gz"))
    with open_sink(source.parent / "store", shard_lines=4) as sink:
        for cut in read_cuts(source):
            sink.write(cut.to_dict())
    assert tag_manifest(job(source.parent / "store", "tagged.jsonl.gz"))["clips"] == 11
    assert samples(source.parent / "tagged.jsonl.gz") == samples(source.parent / "whole.jsonl.gz")
    assert tag_manifest(job(source.parent / "store", "tagged.jsonl.gz"))["clips"] == 11, "nothing to do"
    source.write_bytes(source.read_bytes()[:-40])
    summary = tag_manifest(job(source, "rest.jsonl.gz"))
    assert summary["problems"] >= 1 and "cuts.jsonl.gz is damaged behind line" in (source.parent / "rest.jsonl.gz.problems.txt").read_text()
    (source.parent / "shar" / "shards").mkdir(parents=True)
    (source.parent / "shar" / "shards" / "cuts.000000.jsonl.gz").touch()
    with pytest.raises(ValueError, match=r"Shar folder, whose audio lies in tar files: tag the cuts before"):
        tag_manifest(job(source.parent / "shar"))
    with pytest.raises(ValueError, match="neither an indexed store"):
        tag_manifest(job(source.parent / "audio"))


def test_too_many_bad_clips_are_an_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_FEW", 0)
    (source.parent / "audio" / "tone2.flac").unlink()
    with pytest.raises(ValueError, match=r"1 of 11 clips are bad, first .tone-2: undecodable.*--max-bad"):
        tag_manifest(job(source))
    assert tag_manifest(job(source, max_bad_fraction=0.2))["problems"] == 1


def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lines each batch has, as they are tagged from now on."""
    tag_lines, sizes = run_module.tag_lines, []

    def counting(lines: Sequence[str], *options: Any) -> run_module.Chunk:
        sizes.append(len(lines))
        return tag_lines(lines, *options)

    monkeypatch.setattr(run_module, "tag_lines", counting)
    return sizes


def without_sound(source: Path, first: int) -> Path:
    """Take the audio away from a clip on, as a mount that is lost."""
    away = source.parent / "away"
    away.mkdir()
    for i in range(first, 11):
        (source.parent / f"audio/tone{i}.flac").rename(away / f"tone{i}.flac")
    return away


def test_a_lost_mount_stops_the_run_and_its_clips_are_heard_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_FEW", 1)
    monkeypatch.setattr(run_module, "_ENOUGH", 6)
    away, sizes = without_sound(source, 4), heard(monkeypatch)
    listed = source.parent / "tagged.jsonl.gz.problems.txt"
    for again in range(2):
        with pytest.raises(ValueError, match=r"2 of 6 clips so far are bad, first .tone-4: .* run the same command again, which hears them again"):
            tag_manifest(job(source))
        assert sizes == ([3, 3], [3, 3, 3])[again], "the first batch was good"
        assert [line.partition(":")[0] for line in listed.read_text().splitlines()] == ["tone-4", "tone-5"]
    for file in away.iterdir():
        file.rename(source.parent / "audio" / file.name)
    assert tag_manifest(job(source))["problems"] == 0 and sizes == [3, 3, 3, 3, 3, 2] and not listed.exists()
    tag_manifest(job(source, "whole.jsonl.gz"))
    assert (source.parent / "tagged.jsonl.gz").read_bytes() == (source.parent / "whole.jsonl.gz").read_bytes()


def test_a_higher_limit_goes_on_and_lists_every_problem(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_FEW", 1)
    monkeypatch.setattr(run_module, "_ENOUGH", 6)
    without_sound(source, 4)
    with pytest.raises(ValueError, match="2 of 6 clips so far are bad"):
        tag_manifest(job(source, jobs=2))
    sizes = heard(monkeypatch)
    summary = tag_manifest(job(source, max_bad_fraction=0.7))
    assert sizes == [3, 2] and summary["problems"] == 7 and len(summary["first_problems"]) == 5
    assert [line.partition(":")[0] for line in (source.parent / "tagged.jsonl.gz.problems.txt").read_text().splitlines()] == [f"tone-{i}" for i in range(4, 11)]


def test_too_many_at_the_end_are_heard_again_too(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_FEW", 1)
    away = without_sound(source, 4)
    with pytest.raises(ValueError, match="7 of 11 clips are bad"):
        tag_manifest(job(source))
    for file in away.iterdir():
        file.rename(source.parent / "audio" / file.name)
    assert tag_manifest(job(source))["problems"] == 0


def test_a_dead_process_and_a_full_disk_lose_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGER_DIES", "1")
    with pytest.raises(OSError, match="a tagging process died"):
        tag_manifest(job(source, taggers=("counting:tone-10",), jobs=2))
    monkeypatch.delenv("TAGGER_DIES")
    append, calls = run_module._append, []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 1:
            append(path, data[:10])
            raise OSError(28, "No space left on device")
        append(path, data)

    monkeypatch.setattr(run_module, "_append", full)
    with pytest.raises(OSError, match="make room"):
        tag_manifest(job(source, taggers=("counting:tone-10",)))
    tag_manifest(job(source, taggers=("counting:tone-10",)))
    tag_manifest(job(source, "whole.jsonl.gz"))
    assert (source.parent / "tagged.jsonl.gz").read_bytes() == (source.parent / "whole.jsonl.gz").read_bytes()


def test_wrong_jobs_are_refused(source: Path) -> None:
    held = locked_file(source.parent / "tagged.jsonl.gz.lock", source.parent)
    with held, pytest.raises(ValueError, match=r"tagged.jsonl.gz is being written by "):
        tag_manifest(job(source))
    tag_manifest(job(source))
    with pytest.raises(ValueError, match="was not written by this command"):
        tag_manifest(job(source, min_confidence=0.5))
    for wrong in ({"batch": 0}, {"taggers": ()}, {"target": source}):
        with pytest.raises(ValueError):
            job(source, **wrong)
    with pytest.raises(FileNotFoundError):
        tag_manifest(job(source.parent / "absent.jsonl"))


def test_the_command_measures_and_says_what_is_wrong(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), str(source.parent / "m.jsonl"), "--taggers", "measured"]) == 0
    cut = next(iter(read_cuts(source.parent / "m.jsonl")))
    assert cut.supervisions[0].custom["loudness"] == "loud" and cut.supervisions[0].custom["tags"]["loudness"]["confidence"] == 1.0
    assert "11 clips" in capsys.readouterr().out
    assert main([str(source), str(source.parent / "x.jsonl"), "--taggers", "nose"]) == 1
    assert "unknown tagger 'nose'" in capsys.readouterr().err
