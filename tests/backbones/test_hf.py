"""The Hugging Face backbone: its loss is transformers' own, packed or not, with logits at labelled positions only (contract C3)."""

import pytest
import torch
from torch import nn
from transformers import CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, Qwen3Config

from nemo_desta.backbones.hf import HFBackbone, resolve_dtype, shared_beginning
from nemo_desta.config import Precision
from nemo_desta.data.conversation import IGNORE, Rendered
from nemo_desta.data.packing import pack

SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = [LlamaConfig(**SIZES, eos_token_id=2, pad_token_id=2), Qwen2Config(**SIZES, eos_token_id=2), Qwen3Config(**SIZES, head_dim=16, eos_token_id=2)]


REFUSED = {
    "sliding_window=8": MistralConfig(**SIZES, sliding_window=8),
    "layer_types ['sliding_attention']": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=0),
    "attn_logit_softcapping=50": Gemma2Config(**SIZES, head_dim=16),
    "final_logit_softcapping=30": Gemma2Config(**SIZES, head_dim=16, attn_logit_softcapping=None),
    "logits_scaling=8": GraniteConfig(**SIZES, logits_scaling=8.0),
    "logit_scale=0.0625": CohereConfig(**SIZES),
    "another structure": GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2),
}


def rows(lengths=(7, 23, 12), context=4) -> list[Rendered]:
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(0, 300, (n,), generator=generator).tolist() for n in lengths]
    return [Rendered(row, [], [], [IGNORE] * context + row[context:], 0) for row in ids]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_packed_loss_and_gradient_equal_transformers_on_each_row_alone(config):
    torch.manual_seed(0)
    backbone = HFBackbone.from_config(config)
    packed = pack(rows(), [[], [], []], 1)
    embeds = backbone.embed(packed.input_ids_T).detach().requires_grad_()
    total, tokens = backbone.loss(embeds, packed)
    total.backward()
    expected, gradients = 0.0, []
    for row in rows():
        alone = backbone.embed(torch.tensor([row.input_ids])).detach().requires_grad_()
        labels = torch.tensor([row.labels])
        loss = backbone.base(inputs_embeds=alone, labels=labels).loss * (labels != IGNORE).sum()
        loss.backward()
        expected += float(loss.detach())
        gradients.append(alone.grad[0])
    assert tokens == sum(n - 4 for n in (7, 23, 12))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(embeds.grad, torch.cat(gradients), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("key", REFUSED)
def test_models_whose_maths_the_packed_loss_leaves_out_are_refused(key):
    with pytest.raises(ValueError, match="not supported as a backbone") as told:
        HFBackbone.from_config(REFUSED[key])
    assert key in str(told.value) and REFUSED[key].model_type in str(told.value)


def test_attention_sinks_are_refused():
    llm = LlamaForCausalLM(CONFIGS[0])
    llm.model.layers[0].self_attn.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match="attention sinks"):
        HFBackbone(llm)


@pytest.mark.parametrize(
    "config", [MistralConfig(**SIZES, sliding_window=None), Qwen2Config(**SIZES, sliding_window=8), GraniteConfig(**SIZES)], ids=lambda c: c.model_type
)
def test_settings_without_effect_are_accepted(config):
    assert HFBackbone.from_config(config).hidden_size == 64


def test_a_row_does_not_see_its_neighbours():
    torch.manual_seed(0)
    backbone = HFBackbone.from_config(CONFIGS[0])
    a, b, c = rows()
    other = Rendered([9] * 23, [], [], b.labels, 0)
    first, second = (pack([a, row, c], [[], [], []], 1) for row in (b, other))
    hidden = [backbone.hidden_states(backbone.embed(p.input_ids_T), p) for p in (first, second)]
    assert torch.equal(hidden[0][:7], hidden[1][:7]) and torch.allclose(hidden[0][30:], hidden[1][30:], atol=1e-6)
    assert not torch.allclose(hidden[0][7:30], hidden[1][7:30], atol=1e-3)


def test_logits_are_made_at_labelled_positions_only():
    """By the head itself where it is more than a frozen product (a bias, an adapter), to the same loss and gradient."""
    torch.manual_seed(0)
    backbone = HFBackbone.from_config(CONFIGS[0])
    packed, seen, results = pack(rows(), [[], [], []], 1), [], []
    for head in (backbone.base.lm_head, _Spy(backbone.base.lm_head, seen)):
        backbone.base.lm_head = head
        embeds = backbone.embed(packed.input_ids_T).detach().requires_grad_()
        loss = backbone.loss(embeds, packed)[0]
        results.append((loss, *torch.autograd.grad(loss, embeds)))
    assert sum(seen) == packed.num_targets < packed.num_tokens
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


class _Spy(nn.Module):
    def __init__(self, head, seen):
        super().__init__()
        self.head, self.seen = head, seen

    def forward(self, hidden):
        self.seen.append(hidden.shape[0])
        return self.head(hidden)


def test_generation_from_embeddings_equals_transformers_from_ids():
    torch.manual_seed(1)
    backbone = HFBackbone.from_config(CONFIGS[0])
    plain = LlamaForCausalLM(backbone.base.config)
    plain.load_state_dict(backbone.base.state_dict())
    ids, mask = torch.randint(3, 300, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    expected = plain.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False)[:, 9:].tolist()
    got = backbone.generate(backbone.embed(ids), mask, max_new_tokens=8)
    assert [row[: len(out)] for row, out in zip(expected, got, strict=True)] == got and all(got)


def test_nothing_is_trainable_and_eval_mode_stays():
    backbone = HFBackbone.from_config(CONFIGS[0]).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.base.training


def test_no_labels_give_zero_loss_that_can_be_differentiated():
    backbone = HFBackbone.from_config(CONFIGS[0])
    packed = pack([Rendered([1, 2, 3], [], [], [IGNORE] * 3, 0)], [[]], 1)
    embeds = backbone.embed(packed.input_ids_T).detach().requires_grad_()
    total, tokens = backbone.loss(embeds, packed)
    total.backward()
    assert tokens == 0 and float(total) == 0.0 and float(embeds.grad.abs().sum()) == 0.0


def test_precision_names():
    assert resolve_dtype(Precision.fp32) == torch.float32
    assert resolve_dtype(Precision.bf16) == torch.bfloat16
    assert resolve_dtype(Precision.auto) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_a_shared_beginning_is_computed_once_and_changes_nothing(config, monkeypatch):
    torch.manual_seed(0)
    backbone = HFBackbone.from_config(config)
    beginning = list(range(20, 32))
    same = [Rendered(beginning + r.input_ids, [], [], [IGNORE] * 12 + r.labels, 0) for r in rows()]
    packed = pack(same, [[], [], []], 1)
    assert shared_beginning(packed) == 12
    results = []
    for least in (8, 10_000):  # with and without sharing
        monkeypatch.setattr("nemo_desta.backbones.hf.MIN_SHARED", least)
        embeds = backbone.embed(packed.input_ids_T).detach().requires_grad_()
        total, tokens = backbone.loss(embeds, packed)
        total.backward()
        results.append((float(total.detach()), tokens, embeds.grad[packed.position_ids_T >= 12]))
    assert results[0][1] == results[1][1]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][2], results[1][2], rtol=1e-4, atol=1e-6)


def test_a_beginning_ends_before_audio_labels_and_differences():
    base = Rendered(list(range(30)), [(20, 2)], [(22, 0)], [IGNORE] * 25 + list(range(25, 30)), 0)
    other = Rendered([*range(15), 99, *range(16, 30)], [(20, 2)], [(22, 0)], base.labels, 0)
    early = Rendered(base.input_ids, [(10, 2)], [(12, 0)], base.labels, 0)
    labelled = Rendered(base.input_ids, [(20, 2)], [(22, 0)], [IGNORE] * 6 + base.input_ids[6:], 0)
    assert shared_beginning(pack([base, base], [[0], [0]], 2)) == 20
    assert shared_beginning(pack([base, other], [[0], [0]], 2)) == 15
    assert shared_beginning(pack([base, early], [[0], [0]], 2)) == 10
    assert shared_beginning(pack([base, labelled], [[0], [0]], 2)) == 5
    assert shared_beginning(pack([base], [[0]], 2)) == 0
