"""The sizes that a plan of memory counts with are those of models that were really built."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.config import ConnectorConfig, LoraConfig
from nemo_desta.modules.qformer import QFormerConnector
from nemo_desta.modules.whisper import WhisperTaps
from nemo_desta.parallel import memory
from nemo_desta.parallel.memory import (
    Workload,
    adapter_activations,
    adapter_parameters,
    connector_parameters,
    encoder_parameters,
    llm_parameters,
)
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.shapes import LARGE_V3
from tests.parallel.adapters import LORA, without_peft
from tests.parallel.processes import run_processes
from tests.parallel.tiny_llms import KINDS, packed, tiny_llm

pytestmark = pytest.mark.timeout(900)  # minutes where other programs share the machine
LAYOUTS = (ParallelSizes(tp=2, pp=2), ParallelSizes(pp=2, virtual_pp=2), ParallelSizes(tp=2, sequence_parallel=True))
TARGETS = (LORA.target_modules, ["q_proj", "k_proj", "v_proj"], ["gate_proj", "o_proj"])
needs_peft = pytest.mark.skipif(without_peft(), reason="the hf backbone takes peft's adapters: the lora extra is not installed")


def adapted(targets: list[str], dropout: float = 0.0) -> LoraConfig:
    return dataclasses.replace(LORA, target_modules=targets, dropout=dropout)


def worker(rank: int, folder: str) -> None:
    """(frozen, trained, its stage) of this process, for every layout and kind of LLM."""
    from nemo_desta.backbones.megatron import MegatronBackbone
    from nemo_desta.parallel.topology import start, stop

    warnings.filterwarnings("ignore")
    found = {}
    for number, sizes in enumerate(LAYOUTS):
        if rank >= sizes.model:
            continue
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store{number}", sizes.model), rank=rank, world_size=sizes.model)
        topology = start(sizes)
        for kind in KINDS:
            llm = tiny_llm(kind)
            backbone = MegatronBackbone.from_state(llm.config, dict(llm.state_dict()), topology, lora=LORA)
            frozen, trained = (sum(p.numel() for p in backbone.parameters() if p.requires_grad is grad) for grad in (False, True))
            found[number, kind] = (frozen, trained, topology.stage)
        stop()
    torch.save(found, f"{folder}/found{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("memory")
    run_processes(worker, (str(folder),), 4)
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(4)]


@pytest.mark.parametrize("number", range(len(LAYOUTS)))
@pytest.mark.parametrize("kind", KINDS)
def test_every_process_has_the_parameters_that_are_counted(number, kind, found):
    sizes, llm = LAYOUTS[number], KINDS[kind][1]
    parts = [of_process[number, kind] for of_process in found[: sizes.model]]
    assert {stage for _, _, stage in parts} == set(range(sizes.pp))
    for frozen, trained, stage in parts:
        assert (frozen, trained) == (llm_parameters(llm, sizes, stage), adapter_parameters(llm, LORA, sizes, stage))


@needs_peft
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", TARGETS, ids=" ".join)
def test_the_hugging_face_backbone_has_the_parameters_that_are_counted(kind, targets):
    backbone, lora = HFBackbone(tiny_llm(kind), adapted(targets)), adapted(targets)
    assert sum(p.numel() for p in backbone.parameters() if not p.requires_grad) == llm_parameters(KINDS[kind][1], ParallelSizes(), 0)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == adapter_parameters(KINDS[kind][1], lora, ParallelSizes(), 0)
    assert adapter_parameters(KINDS[kind][1], dataclasses.replace(lora, enabled=False), ParallelSizes(), 0) == 0


@pytest.mark.parametrize("taps", [None, [7, 15, 23, 31], [3, 9]])
def test_encoder_and_connector_have_the_parameters_that_are_counted(taps):
    connector = ConnectorConfig(taps=taps)
    with torch.device("meta"):
        encoder = WhisperTaps.from_config(LARGE_V3, taps=taps)
        built = QFormerConnector.from_config(connector, encoder_dim=1280, llm_dim=4096, num_taps=encoder.num_taps, num_heads=20)
    assert encoder_parameters(LARGE_V3, taps) == sum(p.numel() for p in encoder.parameters())
    assert connector_parameters(connector, 1280, 4096) == sum(p.numel() for p in built.parameters())


def kept_bytes(backbone: HFBackbone) -> int:
    """Bytes of all that autograd keeps of a forward pass besides parameters."""
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in backbone.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pack = packed()
    embeds = backbone.embed(pack.input_ids_T).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = backbone.hidden_states(embeds, pack)
    assert hidden.requires_grad
    return sum(kept.values())


@needs_peft
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", TARGETS, ids=" ".join)
def test_adapters_keep_the_activations_that_are_counted(targets, dropout, monkeypatch):
    monkeypatch.setattr(memory, "MASK", 4)  # on a CPU a mask has the type of what it masks
    lora, llm = adapted(targets, dropout), tiny_llm("llama3")
    plain = kept_bytes(HFBackbone(tiny_llm("llama3")).train())
    more = kept_bytes(HFBackbone(llm, lora).train()) - plain
    counted = llm.config.num_hidden_layers * adapter_activations(llm.config, lora, ParallelSizes(), Workload(packed().num_tokens, 1, half=False))
    assert more == counted
