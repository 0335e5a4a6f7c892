"""The driver of the whole way: stages, records, failures, Ctrl-C, restarts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.tiny import default_interrupt
from tools import demo


def python_stage(name: str, code: str, *arguments: str) -> demo.Stage:
    return demo.Stage(name, f"does {name}", (sys.executable, "-c", code, *arguments), "read the log; then start the same command again.")


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "conf"
    directory.mkdir()
    (directory / "tiny.yaml").write_text(
        "defaults: [desta_schema, _self_]\nname: tiny\nrun_dir: runs/tiny\ncorpus: {tier: ci}\n"
        "model: {llm: 'asset://a', encoder: 'hf://b/c'}\ntrainer: {max_steps: 3}\n"
    )
    return directory


def test_stages_run_in_order_and_are_recorded(tmp_path: Path) -> None:
    stages = [python_stage(name, "import sys; open(sys.argv[1], 'a').write(sys.argv[2])", str(tmp_path / "log"), name) for name in ("a", "b", "c")]
    assert demo.run_all(stages, tmp_path, "again") == 0
    assert (tmp_path / "log").read_text() == "abc"
    records = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert list(records) == ["a", "b", "c"]
    assert all(record["done"] and record["exit_code"] == 0 and 0 < record["minutes"] < 1 and record["starts"] == 1 for record in records.values())


def test_memory_of_children_counts(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; x = bytearray(200 << 20); time.sleep(3)'])"
    assert demo.run_all([python_stage("a", code)], tmp_path, "again") == 0
    assert 0.19 < demo.read_stages(tmp_path / "stages.json")["a"]["peak_rss_gib"] < 1


def test_a_failing_stage_ends_the_run_with_its_name_code_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [python_stage("good", "pass"), python_stage("bad", "import sys; sys.exit(7)"), python_stage("never", "open('never', 'w')")]
    assert demo.run_all(stages, tmp_path, "again") == 1
    out = capsys.readouterr().out
    assert "Stage 'bad' failed (exit code 7)." in out and "What to do: read the log" in out
    records = demo.read_stages(tmp_path / "stages.json")
    assert "never" not in records and records["bad"]["exit_code"] == 7 and not records["bad"]["done"]


def test_out_of_memory_is_named() -> None:
    assert "SIGKILL" in demo.exit_reason(-9) and "memory" in demo.exit_reason(-9)
    assert demo.exit_reason(3) == "exit code 3" and demo.exit_reason(-15) == "ended by SIGTERM"


def test_minutes_add_up_over_restarts_but_not_for_a_stage_that_only_looks(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    log = demo.StageLog(path, "train")
    log.begin()
    log.started -= 120  # as if it had run for two minutes
    log.save()  # interrupted
    assert demo.read_stages(path)["train"]["minutes"] == pytest.approx(2, abs=0.05) and not demo.read_stages(path)["train"]["done"]
    log = demo.StageLog(path, "train", peak_bytes=3 * demo.GIB)
    log.begin()
    log.started -= 180
    log.save()  # a look on the way must not add twice
    log.save(exit_code=0)
    record = demo.read_stages(path)["train"]
    assert record["minutes"] == pytest.approx(5, abs=0.05) and record["done"] and record["starts"] == 2 and record["peak_rss_gib"] == 3
    log = demo.StageLog(path, "train", peak_bytes=demo.GIB)
    log.begin()
    log.save(exit_code=0)  # done before: it only looked
    assert demo.read_stages(path)["train"] == {**record, "time": demo.read_stages(path)["train"]["time"]}
    log = demo.StageLog(path, "train")
    log.begin()
    log.started -= 120
    log.save(exit_code=0)  # long enough to be work, e.g. with a new configuration
    assert demo.read_stages(path)["train"]["minutes"] == pytest.approx(7, abs=0.05)


def test_a_damaged_record_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text('{"a": ')
    assert demo.run_all([python_stage("a", "pass")], tmp_path, "again") == 0
    assert demo.read_stages(tmp_path / "stages.json")["a"]["done"]


CHILD = """
import signal, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(str(helper.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[2], "w").write("saved")
    sys.exit(0)
"""

DRIVER = """
import sys
from pathlib import Path
from tools import demo
import signal
signal.signal(signal.SIGTERM, demo._interrupt)
stage = demo.Stage("slow", "waits", (sys.executable, "-c", sys.argv[1], sys.argv[2], sys.argv[3]), "remedy")
sys.exit(demo.run_all([stage], Path(sys.argv[4]), "make demo"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_lets_the_stage_save_and_leaves_no_process(tmp_path: Path, repository: Path, number: int) -> None:
    started, saved = tmp_path / "pid", tmp_path / "saved"
    command = [sys.executable, "-c", DRIVER, CHILD, str(started), str(saved), str(tmp_path)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True, preexec_fn=default_interrupt)
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped in stage 'slow'" in out and "make demo" in out
    assert saved.read_text() == "saved"
    helper = int(started.read_text())
    assert not psutil.pid_exists(helper) or psutil.Process(helper).status() == psutil.STATUS_ZOMBIE
    record = demo.read_stages(tmp_path / "stages.json")["slow"]
    assert not record["done"] and record["exit_code"] is None


def test_every_stage_gets_the_recipe_and_the_overrides(config_dir: Path, repository: Path) -> None:
    overrides = ["trainer.max_steps=5", "seed=1"]
    config = demo.load_config("tiny", overrides, config_dir)
    assert config.trainer.max_steps == 5 and config.data.max_tokens == 1024
    stages = demo.build_stages("tiny", config, overrides)
    assert [stage.name for stage in stages] == ["assets", "corpus", "targets", "train", "evaluate"]
    assert stages[0].command[2:] == ("fetch", "--tier", "ci", "--models")
    for stage in stages[1:]:
        assert stage.command[2:] == ("--config-name=tiny", *overrides)
    assert all((repository / stage.command[1]).parent.is_dir() and "same command again" in stage.remedy for stage in stages)
    assert all(set(times) == {stage.name for stage in stages} for times in demo.EXPECTED_MINUTES.values())


def test_models_are_fetched_only_for_recipes_that_name_packaged_ones(config_dir: Path) -> None:
    config = demo.load_config("tiny", ["model.llm=hf://x/y"], config_dir)
    assert "--models" not in demo.build_stages("tiny", config, [])[0].command


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        ("huge", [], r"no recipe 'huge' in conf/ \(it holds: tiny\)"),
        ("tiny", ["trainer.max_stepz=1"], "max_stepz"),
        ("tiny", ["trainer.max_steps=soon"], "max_steps"),
        ("tiny", ["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_recipe_or_key_is_named(config_dir: Path, name: str, overrides: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        demo.load_config(name, overrides, config_dir)


def test_stage_selection_keeps_the_order_and_names_unknown_ones() -> None:
    stages = [python_stage(name, "pass") for name in "abc"]
    assert [stage.name for stage in demo.select(stages, "c,a")] == ["a", "c"]
    assert demo.select(stages, "") == stages
    with pytest.raises(ValueError, match="unknown stage x; there are: a, b, c"):
        demo.select(stages, "a,x")


def test_unknown_recipe_on_the_command_line_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["no_such_recipe"]) == 2
    out = capsys.readouterr().out
    assert "demo: there is no recipe 'no_such_recipe'" in out and "Traceback" not in out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_directory_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write"):
        demo.run_all([python_stage("a", "pass")], tmp_path / "run", "again")


def test_summary_names_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.run_all([python_stage("a", "pass")], tmp_path, "again")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("")
    demo.summarise(tmp_path)
    out = capsys.readouterr().out
    assert "report.html" in out and "results.json" not in out and "peak GiB" in out
