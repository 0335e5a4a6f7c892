"""All layouts of processes train, answer and export the same (contract C3), on spawned gloo processes: one start, many checks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.models.parallel_steps import ParallelSteps
from nemo_desta.parallel.plan import ParallelSizes
from tests.parallel.processes import run_processes
from tools import check_parallel as check
from tools.check_parallel import LAYOUTS, Layout, Problem

pytestmark = pytest.mark.timeout(1500)  # minutes where other programs share the machine
PROMPT = [[0, 0, 0, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10, 11]]
MASK = [[0, 0, 0, 1, 1, 1, 1], [1] * 7]
# (kind of model, layout): every layout on one kind, the whole cut on the others.
WHOLE = Layout("TP2 x PP2", ParallelSizes(tp=2, pp=2))
RUNS = [("llama", layout) for layout in LAYOUTS if layout.name != "TP1"] + [(kind, WHOLE) for kind in ("llama-tied", "qwen2", "qwen3")]
REPLICAS = Layout("replicas", ParallelSizes(tp=2), copies=2)
WRITTEN = Layout("written", ParallelSizes(tp=2, pp=2, virtual_pp=1, sequence_parallel=True))


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(PROMPT), torch.tensor(MASK)


def reference(problem: Problem) -> tuple[Any, list[list[int]]]:
    ids, mask = prompts()
    backbone = HFBackbone.from_pretrained(problem.folder, dtype=torch.float32)
    return check.reference(problem), backbone.generate(backbone.embed(ids), mask, max_new_tokens=9)


def answers(model: Any, topology: Any) -> list[list[int]]:
    ids, mask = prompts()
    if topology.is_first:
        return model.backbone.generate(model.backbone.embed(ids), mask, max_new_tokens=9)
    return model.backbone.generate(None, None, max_new_tokens=9)


def replicas(problem: Problem) -> list[torch.Tensor]:
    """The connector of every process after 50 steps with dropout."""
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.parallel.topology import start

    topology = start(REPLICAS.sizes)
    backbone = MegatronBackbone.from_pretrained(problem.folder, topology, dtype=torch.float32)
    model = check.build(backbone, problem, topology)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    steps = ParallelSteps(topology)
    torch.manual_seed(steps.random_rank)
    check.train(model, steps, problem, topology.data, topology.data_size, num_steps=50)
    own = torch.cat([p.detach().flatten() for p in model.trainable_parameters()])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return every


def worker(rank: int, folder: str, problems: dict[str, Problem]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    jobs = [*RUNS, ("llama", WRITTEN), ("llama", REPLICAS)]
    for number, (kind, layout) in enumerate(jobs):
        if rank >= layout.world:
            continue
        store = dist.FileStore(f"{folder}/store{number}", layout.world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=layout.world)
        from nemo_desta.parallel.topology import stop

        if layout is REPLICAS:
            found["replicas"] = replicas(problems[kind])
        else:

            def more(model: Any, topology: Any, problem: Problem, layout: Layout = layout, kind: str = kind) -> None:
                found[f"{kind} {layout.name} answers"] = answers(model, topology)
                if layout is WRITTEN:
                    model.backbone.export(Path(folder) / "exported")

            found[f"{kind} {layout.name}"] = check.run_layout(layout, problems[kind], more)
        stop()
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def problems(root) -> dict[str, Problem]:
    return check.problems_of("tiny", quick=False, folder=root)


@pytest.fixture(scope="module")
def found(root, problems) -> dict[str, Any]:
    run_processes(worker, (str(root), problems), 4)
    return torch.load(root / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def wanted(problems) -> dict[str, Any]:
    return {name: reference(problem) for name, problem in problems.items()}


@pytest.mark.parametrize(("kind", "layout"), RUNS, ids=lambda x: getattr(x, "name", x))
def test_five_steps_and_generated_tokens_equal_one_process_with_hugging_face(kind, layout, found, wanted):
    loss, gradient = check.compare(found[f"{kind} {layout.name}"], wanted[kind][0])
    assert loss <= check.LOSS_TOLERANCE and gradient <= check.GRADIENT_TOLERANCE
    assert found[f"{kind} {layout.name} answers"] == wanted[kind][1]


def test_connector_replicas_are_equal_bit_for_bit_after_fifty_steps(found):
    first, *others = found["replicas"]
    assert len(others) == 3 and all(torch.equal(first, other) for other in others)


def test_an_exported_model_is_the_one_that_was_read(found, root, problems):
    assert "llama written" in found
    exported = AutoModelForCausalLM.from_pretrained(root / "exported").state_dict()
    original = load_file(problems["llama"].folder / "model.safetensors")
    assert set(original) <= set(exported) and all(torch.equal(exported[name], tensor) for name, tensor in original.items())
