"""The Slurm template, with stand-ins for Slurm's commands: what it starts, and when it queues itself again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_desta.parallel.launch import Launch, detect_launch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "slurm" / "train.sbatch"


@pytest.fixture
def slurm(tmp_path):
    """Function: body of `srun`, restarts so far -> (command, environment); what the stand-ins were asked is in tmp_path/asked. The run lies in tmp_path/run."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def stand_in(name: str, body: str) -> None:
        (commands / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "{tmp_path}/asked"\n{body}\n')
        (commands / name).chmod(0o755)

    def make(srun: str, restarts: int = 0) -> dict:
        stand_in("srun", srun)
        stand_in("scontrol", '[ "$1" = show ] && printf "node0\\nnode1\\n"; true')
        stand_in("scancel", "exit 1")  # no such step: the script then signals srun itself
        stand_in("python3", f'[[ "$*" = *--package=run_dir* ]] && echo "a warning" && echo "{tmp_path}/run"')
        environment = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2"}
        environment |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_RESTART_COUNT": str(restarts), "PYTHON": "python3"}
        return {"args": ["bash", str(SCRIPT), "--config-name=desta25", "parallel.tp=2"], "env": environment, "cwd": tmp_path}

    return make


def asked(folder: Path) -> str:
    return (folder / "asked").read_text()


def test_one_torchrun_a_node_with_the_scripts_arguments_and_logs_by_rank(slurm, tmp_path):
    done = subprocess.run(**slurm("exit 0"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = asked(tmp_path)
    assert "--nnodes=2 --nproc-per-node=8" in said and "--rdzv-endpoint=node0:29500" in said and "--log-dir=logs/7-0" in said
    assert "examples/train_desta.py --config-name=desta25 parallel.tp=2" in said and "requeue" not in said
    assert (tmp_path / "logs" / "7-0").is_dir()


def test_a_mistake_of_the_user_is_not_queued_again(slurm, tmp_path):
    srun = 'echo "optim.lr is wrong" > "$NEMO_DESTA_MISTAKE_FILE"; exit 1'
    done = subprocess.run(**slurm(srun), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "requeue" not in asked(tmp_path)
    assert "not queued again" in done.stdout and "optim.lr is wrong" in done.stdout and (tmp_path / "logs" / "7-0" / "mistake").is_file()


def fail(job: dict) -> bool:
    """Start a job that ends with a fault; whether it was queued again by this start."""
    before = asked(job["cwd"]).count("requeue") if (job["cwd"] / "asked").exists() else 0
    assert subprocess.run(**job, capture_output=True, text=True, timeout=60, check=False).returncode == 3
    return asked(job["cwd"]).count("scontrol requeue 7") > before


def checkpoint(folder: Path, name: str) -> None:
    (folder / "run" / "train" / "checkpoints" / name).mkdir(parents=True)


def test_a_fault_is_queued_again_a_few_times_while_no_checkpoint_comes(slurm, tmp_path):
    checkpoint(tmp_path, "step=200.ckpt")  # of an earlier job: not what counts
    assert [fail(slurm("exit 3", restarts)) for restarts in range(5)] == [True, True, True, False, False]
    assert fail({**(job := slurm("exit 3", 5)), "env": job["env"] | {"MAX_RESTARTS": "6"}})


def test_restarts_that_no_fault_made_do_not_count(slurm):
    assert [fail(slurm("exit 3", restarts)) for restarts in (40, 50, 51, 52)] == [True, True, True, False]  # forty time limits and preemptions before


def test_a_newer_checkpoint_starts_the_count_again(slurm, tmp_path):
    checkpoint(tmp_path, "step=900.ckpt")
    assert [fail(slurm("exit 3", restarts)) for restarts in range(3)] == [True] * 3
    checkpoint(tmp_path, "step=1000.ckpt")
    assert [fail(slurm("exit 3", restarts)) for restarts in range(3, 7)] == [True, True, True, False]
    checkpoint(tmp_path, "step=1000.ckpt.part")  # half written, set aside, or older: the run did not get on
    checkpoint(tmp_path, "step=1100.ckpt.damaged")
    checkpoint(tmp_path, "step=950.ckpt")
    assert not fail(slurm("exit 3", 7))


def test_faults_that_cannot_be_written_down_end_too(slurm, tmp_path):
    (tmp_path / "logs" / "7.faults").mkdir(parents=True)  # stands for a full disk
    assert [fail(slurm("exit 3", restarts)) for restarts in (0, 2, 3)] == [True, True, False]


def test_the_program_says_where_its_checkpoints_lie():
    """What the template reads: the last line on stdout."""
    asks = re.search(r"examples/train_desta\.py (--cfg=job \S+)", SCRIPT.read_text())
    assert asks is not None
    words = [*asks.group(1).split(), "--config-name=desta25_mini", "run_dir=runs/else where", "parallel.tp=2"]
    done = subprocess.run([sys.executable, "examples/train_desta.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "runs/else where", done.stderr


def test_torchrun_waits_for_the_checkpoint_nearly_as_long_as_slurm(slurm, tmp_path):
    warned = int(re.search(r"--signal=B:TERM@(\d+)", SCRIPT.read_text()).group(1))
    job, waits = slurm(f'echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> {tmp_path}/waits'), tmp_path / "waits"
    for environment in (job["env"], job["env"] | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "900"}):
        subprocess.run(**{**job, "env": environment}, capture_output=True, timeout=60, check=True)
    own, given = map(int, waits.read_text().split())
    assert warned - 60 <= own < warned and given == 900


def test_a_warning_before_the_time_limit_saves_and_queues_again(slurm, tmp_path):
    srun = f"trap 'echo saved > {tmp_path}/saved; exit 130' TERM; touch {tmp_path}/running; sleep 120 & wait"
    process = subprocess.Popen(**slurm(srun), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "running").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert (tmp_path / "saved").exists() and "scontrol requeue 7" in asked(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the stand-in's sleep


def test_srun_without_torchrun_is_told_to_use_it(monkeypatch):
    from nemo_desta.config import BackboneKind, ParallelConfig, TrainerConfig
    from nemo_desta.models.training import start_parallel

    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "16")
    for parallel in (ParallelConfig(tp=2, pp=2), ParallelConfig(backbone=BackboneKind.megatron)):
        with pytest.raises(ValueError, match=r"SLURM_NTASKS=16 processes.*torchrun, one on every node"):
            start_parallel(parallel, TrainerConfig(max_steps=1), seed=0)
    assert start_parallel(ParallelConfig(), TrainerConfig(max_steps=1), seed=0) is None
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert detect_launch() == Launch(16, 8, external=True)  # torchrun under srun
