"""LoRA over tensor-parallel pipeline stages trains the adapters that peft trains on one process (contract C3), on spawned gloo processes."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.checkpoint import trainable_state
from nemo_desta.checkpoint.connector import LORA_PREFIX, published_name
from nemo_desta.config import LoraConfig
from nemo_desta.data.dataset import StepBatch
from nemo_desta.models.steps import DataParallelSteps
from nemo_desta.parallel.lora_table import check_targets, fresh, whole_shapes
from nemo_desta.parallel.plan import ParallelSizes
from tests.parallel.adapters import LORA, without_peft
from tests.parallel.processes import run_processes
from tools import check_parallel as check
from tools.check_parallel import Layout, Problem

pytestmark = pytest.mark.timeout(1500)  # minutes where other programs share the machine
needs_peft = pytest.mark.skipif(without_peft(), reason="the reference is peft's: the lora extra is not installed")
LIMIT = 0.5  # of the gradient's norm, below it in every step: a wrong norm changes every update
LAYOUTS = (
    Layout("TP1", ParallelSizes()),
    Layout("TP2", ParallelSizes(tp=2)),
    Layout("PP2", ParallelSizes(pp=2)),
    Layout("TP2 x PP2", ParallelSizes(tp=2, pp=2)),
    Layout("TP2 x PP2 + sequence parallel, recompute", ParallelSizes(tp=2, pp=2, sequence_parallel=True), recompute=True),
    Layout("TP2 x DP2", ParallelSizes(tp=2), copies=2),
)
RUNS = [("llama", layout) for layout in LAYOUTS] + [("qwen2", LAYOUTS[3])]
DROPOUT = (Layout("TP2 x DP2", ParallelSizes(tp=2), copies=2), Layout("TP2 + sequence parallel", ParallelSizes(tp=2, sequence_parallel=True)))
PROMPT, MASK = torch.tensor([[0, 0, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])


def train(model: Any, steps: Any, problem: Problem, copy: int, copies: int, gradients_of: Any) -> dict[str, Any]:
    """Losses, norms and gradients (by published name) of five clipped steps, and what comes of them."""
    parameters = model.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=problem.lr, betas=(0.9, 0.98), weight_decay=0.01)
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": []}
    for step in range(check.STEPS):
        optimizer.zero_grad()
        steps.seed(0, step)
        batch = steps.share(StepBatch(check.micro_batches(problem, step, copy, copies), []))
        loss, _ = steps.run(model, batch.micro_batches, parameters)
        found["gradients"].append({name: gradient.clone() for name, gradient in gradients_of().items()})
        found["norms"].append(steps.clip(parameters, LIMIT))
        optimizer.step()
        found["losses"].append(loss)
    return {**found, "state": steps.trained_state(model)}


def reference(problem: Problem) -> dict[str, Any]:
    """The hf backbone with peft's adapters, on one process."""
    torch.manual_seed(0)
    model = check.build(HFBackbone.from_pretrained(problem.folder, dtype=torch.float32, lora=LORA), problem)

    def gradients() -> dict[str, Tensor]:
        named = {published_name(n) if "lora_" in n else n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        return {name: gradient for name, gradient in named.items() if gradient is not None}

    found = train(model, DataParallelSteps(), problem, 0, 1, gradients)
    backbone = model.backbone
    return {**found, "answers": backbone.generate(backbone.embed(PROMPT), MASK, max_new_tokens=9)}


def build(layout: Layout, problem: Problem, lora: LoraConfig) -> tuple[Any, Any, Any]:
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.models.parallel_steps import ParallelSteps
    from nemo_desta.parallel.topology import start

    topology = start(layout.sizes)
    torch.manual_seed(0)
    backbone = MegatronBackbone.from_pretrained(problem.folder, topology, dtype=torch.float32, recompute=layout.recompute, lora=lora)
    return check.build(backbone, problem, topology), ParallelSteps(topology), topology


def run_layout(layout: Layout, problem: Problem) -> dict[str, Any]:
    """The same over several processes."""
    from nemo_desta.parallel.lora import gather_whole

    model, steps, topology = build(layout, problem, LORA)
    backbone = model.backbone

    def gradients() -> dict[str, Tensor]:
        adapters = {name: whole for name, (whole,) in gather_whole(backbone.adapters, lambda half: [half.parameter.grad], topology).items()}
        connector = {n: p.grad for n, p in model.named_parameters() if n.startswith("perception") and p.grad is not None}
        return {**connector, **adapters}

    found = train(model, steps, problem, topology.data, topology.data_size, gradients)
    first = (backbone.embed(PROMPT), MASK) if topology.is_first else (None, None)
    return {**found, "answers": backbone.generate(*first, max_new_tokens=9)}


def copies(layout: Layout, problem: Problem) -> bool:
    """Whether after five steps with dropout all processes hold the same of what is not cut."""
    model, steps, topology = build(layout, problem, dataclasses.replace(LORA, dropout=0.3))
    train(model, steps, problem, topology.data, topology.data_size, dict)
    own = [half.parameter.detach() for half in model.backbone.adapters if not half.cut]
    own += [p.detach() for n, p in model.named_parameters() if n.startswith("perception") and p.requires_grad]
    flat = torch.cat([p.flatten() for p in own])
    every = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(every, flat)
    return all(torch.equal(flat, other) for other in every)


def worker(rank: int, folder: str, problems: dict[str, Problem]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    jobs = [(run_layout, kind, layout) for kind, layout in RUNS] + [(copies, "llama", layout) for layout in DROPOUT]
    for number, (job, kind, layout) in enumerate(jobs):
        if rank >= layout.world:
            continue
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store{number}", layout.world), rank=rank, world_size=layout.world)
        from nemo_desta.parallel.topology import stop

        found[f"{job.__name__} {kind} {layout.name}"] = job(layout, problems[kind])
        stop()
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> dict[str, Problem]:
    return check.problems_of("tiny", quick=False, folder=tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def found(problems, tmp_path_factory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("found")
    run_processes(worker, (str(folder), problems), 4)
    return torch.load(folder / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def wanted(problems) -> dict[str, Any]:
    return {kind: reference(problems[kind]) for kind in {kind for kind, _ in RUNS}}


@needs_peft
@pytest.mark.parametrize(("kind", "layout"), RUNS, ids=lambda x: getattr(x, "name", x))
def test_five_clipped_steps_equal_peft_on_one_process(kind, layout, found, wanted):
    got, alone = found[f"run_layout {kind} {layout.name}"], wanted[kind]
    assert got["losses"] == pytest.approx(alone["losses"], rel=check.LOSS_TOLERANCE)
    assert min(alone["norms"]) > LIMIT and got["norms"] == pytest.approx(alone["norms"], rel=check.GRADIENT_TOLERANCE)
    for own, other in zip(got["gradients"], alone["gradients"], strict=True):
        assert own.keys() == other.keys()
        for part in ("perception.", LORA_PREFIX):
            a, b = (torch.cat([every[name].flatten() for name in sorted(every) if name.startswith(part)]) for every in (own, other))
            assert float((a - b).norm() / b.norm()) <= check.GRADIENT_TOLERANCE, part
    assert got["answers"] == alone["answers"]


@needs_peft
@pytest.mark.parametrize(("kind", "layout"), RUNS, ids=lambda x: getattr(x, "name", x))
def test_the_trained_tensors_are_those_of_one_process(kind, layout, found, wanted):
    got, alone = found[f"run_layout {kind} {layout.name}"]["state"], wanted[kind]["state"]
    assert {name: tensor.shape for name, tensor in got.items()} == {name: tensor.shape for name, tensor in alone.items()}
    assert all(torch.allclose(got[name], alone[name], atol=2e-4) for name in alone)


@pytest.mark.parametrize("layout", DROPOUT, ids=lambda x: x.name)
def test_what_several_processes_hold_stays_equal_bit_for_bit_under_dropout(layout, found):
    assert found[f"copies llama {layout.name}"]


@needs_peft
def test_the_table_is_the_order_and_the_start_of_the_hf_adapters(problems):
    torch.manual_seed(0)
    backbone = HFBackbone.from_pretrained(problems["llama"].folder, dtype=torch.float32, lora=LORA)
    own = {published_name(name): tuple(p.shape) for name, p in backbone.named_parameters() if p.requires_grad}
    shapes = whole_shapes(backbone.base.config, LORA)
    assert list(own.items()) == list(shapes.items())
    state = trainable_state(backbone)
    assert all(torch.equal(state[name], fresh(name, shape)) if ".lora_A." in name else not state[name].any() for name, shape in shapes.items())


def test_targets_that_the_layers_lack_are_refused_with_those_that_work():
    with pytest.raises(ValueError, match=re.escape("target_modules=['q_proj', 'lm_head']: the megatron backbone adapts q_proj, k_proj")):
        check_targets(LoraConfig(enabled=True, target_modules=["q_proj", "lm_head"]))
