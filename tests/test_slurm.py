"""The Slurm template, with stand-ins for Slurm's commands: what it starts, and when it queues itself again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nemo_desta.parallel.launch import Launch, detect_launch

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "slurm" / "train.sbatch"


@pytest.fixture
def slurm(tmp_path):
    """Function: body of `srun`, restarts so far -> (command, environment); what the stand-ins were asked is in tmp_path/asked."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def stand_in(name: str, body: str) -> None:
        (commands / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "{tmp_path}/asked"\n{body}\n')
        (commands / name).chmod(0o755)

    def make(srun: str, restarts: int = 0) -> dict:
        stand_in("srun", srun)
        stand_in("scontrol", '[ "$1" = show ] && printf "node0\\nnode1\\n"; true')
        stand_in("scancel", "exit 1")  # no such step: the script then signals srun itself
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


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (2, True), (3, False)])
def test_a_failure_is_queued_again_a_few_times(slurm, tmp_path, restarts, again):
    done = subprocess.run(**slurm("exit 3", restarts), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert ("scontrol requeue 7" in asked(tmp_path)) is again


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
