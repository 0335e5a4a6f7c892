"""The commands of docs/manifests.md do what they say, and tools/bench_data.py measures."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_desta.manifests.sources import records
from tests.manifests.rows import clip, row, write_rows
from tests.tiny import tiny_llm
from tools.bench_data import bench_generation, bench_tagging, write_clips
from tools.manifests import main

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "manifests.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS = [command[2:] for command in COMMANDS if command[1] == "tools/manifests.py"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the page starts from."""
    for i in range(12):
        clip(tmp_path / f"audio/GLOBE/clip_{i}.wav", 2.0, seed=i)
    seeds = [f"[00:00-00:02] Hello there {i} (Gender: Male, Speaker: S{i % 6}, Duration: 2s)" for i in range(12)]
    write_rows(tmp_path / "speech.0.jsonl", [row(i, text=f"Hello there {i}", seed_description=seeds[i]) for i in range(12)])
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/x.wav").write_bytes((tmp_path / "audio/GLOBE/clip_3.wav").read_bytes())
    (tmp_path / "test_ids.txt").write_text("clip_5\n")
    write_rows(tmp_path / "questions.jsonl", [{"question": "What do you hear? (7)"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_works_as_it_stands(folder, capsys):
    for command in OURS:
        assert main(command) == 0, f"{' '.join(command)}: {capsys.readouterr()}"
    assert (folder / "exported/speech.0.jsonl").read_bytes() == (folder / "speech.0.jsonl").read_bytes()
    assert {Path(f"audio/GLOBE/clip_{i}.wav").stem for i in range(12)} - {r["custom"]["audio_id"][6:-4] for r in records("train.jsonl.gz")} == {
        "clip_3",
        "clip_5",
        "clip_7",
    }
    assert len(list(records("sample.jsonl"))) == 2 and len(list(records("merged.jsonl"))) == 12 and len(list(records("shar"))) == 12
    assert json.loads((folder / "stats.json").read_text())["total"]["rows"] == 12 and (folder / "plots/hours.png").exists()
    assert not {r["supervisions"][0]["speaker"] for r in records("parts/train.jsonl.gz")} & {
        r["supervisions"][0]["speaker"] for r in records("parts/test.jsonl.gz")
    }


def test_the_page_shows_every_command_of_ours():
    import argparse

    from tools.manifests import parser

    (actions,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {command[0] for command in OURS} | {"list", "prepare", "prepare-all"} == set(actions.choices) | {"list", "prepare", "prepare-all"}


def test_the_training_command_names_a_real_key():
    from dataclasses import fields

    from nemo_desta.config import DataConfig

    (training,) = (command for command in COMMANDS if command[1] == "examples/train_desta.py")
    assert "data.manifest=store" in training and "manifest" in {f.name for f in fields(DataConfig)}


def test_bench_data_measures(tmp_path):
    command = [
        sys.executable,
        "tools/bench_data.py",
        "--quick",
        "--rows",
        "2000",
        "--clips",
        "40",
        "--only",
        "import,open,resume,probe,dataloader",
        "--output",
        str(tmp_path / "b.json"),
        "--work-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["import"]["rows_per_s_cpu"] > 0 and report["open"]["seconds_wall"] < 2 and report["resume"]["same_as_unbroken"]
    assert report["dataloader"]["shar_flac_clips_per_s_wall"] > 0 and "loose_flac_clips_per_s_wall" in done.stdout and report["machine"]["cores"]
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_bench_data_measures_taggers_and_engines(tmp_path):
    write_clips(tmp_path / "clips", 6)
    tagged = bench_tagging(tmp_path, 6, ("measured",))
    assert tagged["measured_clips_per_s_cpu"] > 0 and tagged["clips"] == 6
    found = bench_generation(3, str(tiny_llm(tmp_path / "llm")))
    assert found["transformers"]["rows_per_s_cpu"] > 0 and found["openai_canned_replies"]["output_tokens_per_s_wall"] > 0 and "vllm" in found
