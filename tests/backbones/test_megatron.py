"""The Megatron backbone on one process: the same losses, gradients and tokens as the Hugging Face one (contract C3)."""

import pytest
import torch
from transformers import GraniteConfig, LlamaConfig

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.backbones.megatron import MegatronBackbone
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.topology import Topology, start, stop
from tests.parallel.tiny_llms import KINDS, SIZES, packed, tiny_llm


@pytest.fixture(scope="module")
def alone():
    yield start(ParallelSizes())
    stop()


def both(kind: str, topology: Topology) -> tuple[HFBackbone, MegatronBackbone]:
    llm = tiny_llm(kind)
    megatron = MegatronBackbone.from_state(llm.config, {name: tensor.clone() for name, tensor in llm.state_dict().items()}, topology)
    return HFBackbone(llm), megatron


def loss_and_gradient(backbone, pack) -> tuple[float, int, torch.Tensor]:
    embeds = backbone.embed(pack.input_ids_T).detach().requires_grad_()
    loss, tokens = backbone.loss(embeds, pack)
    loss.backward()
    return float(loss.detach()), tokens, embeds.grad


@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradient_and_generated_tokens_equal_hugging_face(kind, alone):
    backbones = both(kind, alone)
    pack = packed()
    (loss, tokens, gradient), (other_loss, other_tokens, other_gradient) = (loss_and_gradient(b, pack) for b in backbones)
    assert other_tokens == tokens == pack.num_targets
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (other_gradient - gradient).norm() < 1e-4 * gradient.norm()
    assert all(p.grad is None and not p.requires_grad for p in backbones[1].parameters())
    ids, mask = torch.randint(3, 300, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[2, :1] = 0
    for sampling in ({}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}):
        answers = []
        for backbone in backbones:
            torch.manual_seed(3)
            answers.append(backbone.generate(backbone.embed(ids), mask, max_new_tokens=10, **sampling))
        assert answers[0] == answers[1]
    assert backbones[0].embedding_std == backbones[1].embedding_std


def test_a_row_does_not_see_its_neighbours(alone):
    _, backbone = both("llama3", alone)
    pack = packed()
    embeds = backbone.embed(pack.input_ids_T).detach()
    changed = embeds.clone()
    changed[7:30] += 1.0  # the middle row
    gradients = []
    for values in (embeds, changed):
        leaf = values.clone().requires_grad_()
        backbone.loss(leaf, pack)[0].backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0][:7], gradients[1][:7]) and torch.allclose(gradients[0][30:], gradients[1][30:], atol=1e-6)
    assert not torch.allclose(gradients[0][7:30], gradients[1][7:30], atol=1e-3)


def test_recomputed_activations_change_nothing(alone):
    llm = tiny_llm("llama3")
    state = dict(llm.state_dict())
    results = [loss_and_gradient(MegatronBackbone.from_state(llm.config, state, alone, recompute=r).train(), packed()) for r in (False, True)]
    assert results[0][0] == results[1][0] and torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize(
    ("config", "said"),
    [(GraniteConfig(**SIZES), "runs llama, qwen2, qwen3 models, not granite"), (LlamaConfig(**SIZES, hidden_act="gelu"), "hidden_act='gelu'")],
)
def test_other_kinds_are_refused(config, said, alone):
    with pytest.raises(ValueError, match=said):
        MegatronBackbone.from_state(config, {}, alone)


def test_weights_of_another_config_are_refused_and_named(alone):
    llm = tiny_llm("llama3")
    wide = LlamaConfig(**(SIZES | {"intermediate_size": 192}), tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"model.layers.0.mlp.gate_proj.weight has the shape \[96, 48\]"):
        MegatronBackbone.from_state(wide, dict(llm.state_dict()), alone)
    with pytest.raises(ValueError, match=r"no tensor lm_head.weight"):
        MegatronBackbone.from_state(llm.config, {k: v for k, v in llm.state_dict().items() if k != "lm_head.weight"}, alone)


def test_transformer_engine_is_refused_where_it_cannot_run(alone):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: whether Transformer Engine is refused depends on the installation")
    llm = tiny_llm("llama3")
    with pytest.raises(ValueError, match=r"transformer_engine=true, but (no CUDA GPU is there|the package transformer-engine is not installed): leave it out"):
        MegatronBackbone.from_state(llm.config, llm.state_dict(), alone, transformer_engine=True)
