"""Two processes that share the frozen LLM's weights (FSDP2) train and answer as one process that has them all (contract C3), on gloo."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.config import DataParallelKind, ParallelConfig, TrainerConfig
from nemo_desta.models.steps import DataParallelSteps, ShardedSteps
from nemo_desta.models.training import start_parallel
from nemo_desta.parallel.memory import sharded_parameters
from tests.parallel.adapters import LORA, without_peft
from tests.parallel.processes import run_processes
from tools import check_parallel as check
from tools.check_parallel import Problem

pytestmark = pytest.mark.timeout(900)  # minutes where other programs share the machine
WORLD, CPU = 2, torch.device("cpu")
CASES = [("llama", None), ("llama-tied", None)] + ([] if without_peft() else [("llama", LORA)])
PROMPT, MASK = torch.tensor([[0, 0, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])


def name_of(case: tuple[str, Any]) -> str:
    return case[0] + (" lora" if case[1] else "")


def trained(problem: Problem, lora: Any, rank: int, world: int) -> dict[str, Any]:
    """Losses and gradients of five steps, an answer, and what the process holds."""
    torch.manual_seed(0)
    backbone = HFBackbone.from_pretrained(problem.folder, dtype=torch.float32, lora=lora)
    model = check.build(backbone, problem)
    if world > 1:
        backbone.shard(CPU)
    steps = ShardedSteps(rank, CPU) if world > 1 else DataParallelSteps()
    run = check.train(model, steps, problem, rank, world)
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in frozen)
    rows = slice(rank, rank + 1) if world > 1 else slice(None)  # answers of unequal length
    answers = backbone.generate(backbone.embed(PROMPT[rows]), MASK[rows], max_new_tokens=3 if rank else 9)
    whole = all(not isinstance(p, DTensor) for p in model.trainable_parameters())
    return {"result": run, "answers": answers, "held": held, "whole": whole, "names": sorted(model.state_dict())}


def worker(rank: int, folder: str, problems: dict[str, Problem]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", WORLD), rank=rank, world_size=WORLD)
    found = {name_of(case): trained(problems[case[0]], case[1], rank, WORLD) for case in CASES}
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> dict[str, Problem]:
    return check.problems_of("tiny", quick=False, folder=tmp_path_factory.mktemp("sharding"))


@pytest.fixture(scope="module")
def found(problems, tmp_path_factory) -> list[dict[str, Any]]:
    """What every process found; they are started once, for that takes most of the time."""
    folder: Path = tmp_path_factory.mktemp("found")
    run_processes(worker, (str(folder), problems), WORLD)
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_five_steps_and_answers_equal_one_process(case, problems, found):
    alone = trained(problems[case[0]], case[1], 0, 1)
    for rank, of_process in enumerate(found):
        got = of_process[name_of(case)]
        loss, gradient = check.compare(got["result"], alone["result"])
        assert loss <= check.LOSS_TOLERANCE and gradient <= check.GRADIENT_TOLERANCE
        assert got["answers"] == [alone["answers"][rank][: 3 if rank else 9]]
        assert got["names"] == alone["names"]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_frozen_weights_are_shared_out_and_trained_ones_are_whole(case, problems, found):
    llm = HFBackbone.from_pretrained(problems[case[0]].folder, dtype=torch.float32).llm
    held = [of_process[name_of(case)]["held"] for of_process in found]
    assert sum(held) == sum(p.numel() for p in llm.parameters()) and max(held) < 0.55 * sum(held)
    assert held == [sharded_parameters(llm.config, WORLD, rank) for rank in range(WORLD)]  # what a plan of memory counts with
    assert all(of_process[name_of(case)]["whole"] for of_process in found)


@pytest.mark.parametrize("key", ["recompute", "transformer_engine"])
def test_what_the_hf_backbone_cannot_do_is_refused(key):
    with pytest.raises(ValueError, match=rf"parallel.{key}=true is for the megatron backbone: set parallel.backbone=megatron"):
        start_parallel(ParallelConfig(**{key: True}), TrainerConfig(max_steps=1), seed=0)


def test_it_is_for_the_hf_backbone_alone():
    with pytest.raises(ValueError, match=r"data_parallel=fsdp2 is for the hf backbone"):
        start_parallel(ParallelConfig(data_parallel=DataParallelKind.fsdp2, tp=2), TrainerConfig(max_steps=1), seed=0)
    with pytest.raises(ValueError, match=r"leave trainer.strategy=ddp out"):
        start_parallel(ParallelConfig(data_parallel=DataParallelKind.fsdp2), TrainerConfig(max_steps=1, strategy="ddp"), seed=0)
