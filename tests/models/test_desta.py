"""The model as a whole on tiny random weights: splice, loss, checkpoints, answers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_desta.checkpoint import load_weights, trainable_state
from nemo_desta.config import ConnectorInit
from nemo_desta.data.conversation import render
from nemo_desta.data.dataset import DestaDataset, load_samples
from nemo_desta.models import DestaModel
from nemo_desta.models.lightning import train_step
from tests.tiny import tiny_model_config, tiny_targets, write_tone


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(root) -> DestaModel:
    torch.manual_seed(0)
    return DestaModel.from_config(tiny_model_config(root)).eval()


@pytest.fixture(scope="module")
def cuts(root):
    return tiny_targets(root, clips=5)


def batch(model, cuts, limit, **options):
    return DestaDataset(model.tokenizer, model.layout, micro_batch_tokens=limit, max_tokens=256, **options)[cuts]


def test_loss_does_not_depend_on_how_a_step_is_packed(model, cuts):
    losses = {}
    for limit in (1, 150, 10_000):  # every row alone, some together, all in one pack
        model.zero_grad()
        step = batch(model, cuts, limit)
        loss, tokens = train_step(model, step.micro_batches, model.trainable_parameters())
        gradient = torch.cat([p.grad.flatten() for p in model.trainable_parameters()])
        losses[limit] = (loss, tokens, gradient, len(step.micro_batches))
    assert next(v[3] for v in losses.values()) == 10 and losses[10_000][3] == 1
    for loss, tokens, gradient, _ in losses.values():
        assert tokens == losses[1][1]
        assert loss == pytest.approx(losses[1][0], rel=1e-5)
        assert torch.allclose(gradient, losses[1][2], rtol=1e-3, atol=1e-6)


def test_a_row_equals_a_plain_statement_of_the_maths(model, cuts):
    cut = cuts[1]
    row = cut.supervisions[1]
    rendered = render(row.custom["messages"], model.tokenizer, model.layout, transcripts=[cut.supervisions[0].text], response=row.text)
    encoder = model.perception.encoder
    taps, mask = encoder.encode(*encoder.featurizer([load_samples(cut)], encoder.pad_to))
    vectors = model.perception.connect(taps, mask)[0]
    llm = model.backbone.base
    embeds = llm.get_input_embeddings()(torch.tensor(rendered.input_ids))
    start, length = rendered.audio_spans[0]
    embeds = torch.cat([embeds[:start], vectors, embeds[start + length :]])
    expected = llm(inputs_embeds=embeds[None], labels=torch.tensor([rendered.labels])).loss
    single = cut.with_id("one")
    single.supervisions = cut.supervisions[:2]
    step = batch(model, type(cuts).from_cuts([single]), 10_000)
    loss, tokens = model(step.micro_batches[0])
    assert float(loss / tokens) == pytest.approx(float(expected), rel=1e-5)


def test_rows_of_a_clip_share_its_vectors(model, cuts):
    step = batch(model, cuts, 10_000)
    assert len(step.micro_batches[0].clips) == 5 and step.micro_batches[0].tokens.clip_of_span_P.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_only_the_connector_learns(model, cuts):
    model.zero_grad()
    train_step(model, batch(model, cuts, 500).micro_batches, model.trainable_parameters())
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learning and all(name.startswith("perception.connector.") for name in learning)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(trainable_state(model))


def test_a_checkpoint_comes_back_whole(model, root, tmp_path):
    model.save_pretrained(tmp_path / "ckpt")
    assert sorted(p.name for p in (tmp_path / "ckpt").iterdir()) == ["config.json", "model.safetensors"]
    again = DestaModel.from_pretrained(tmp_path / "ckpt")
    for name, tensor in trainable_state(model).items():
        assert torch.equal(tensor, trainable_state(again)[name])
    clip = str(write_tone(tmp_path / "a.wav", 0.6))
    messages = [{"role": "user", "content": "<|AUDIO|>\nWhat?", "audios": [{"audio": clip, "text": "x"}]}]
    assert again.generate(messages, max_new_tokens=6) == model.generate(messages, max_new_tokens=6)


def test_a_checkpoint_that_does_not_fit_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "ckpt")
    weights = load_weights(tmp_path / "ckpt")
    from safetensors.torch import save_file

    weights.pop("perception.connector.layer_weights")
    save_file(weights, tmp_path / "ckpt" / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors missing.*layer_weights"):
        DestaModel.from_pretrained(tmp_path / "ckpt")
    with pytest.raises(ValueError, match="no checkpoint at"):
        DestaModel.from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_a_batch_answers_as_single_conversations_do(model, tmp_path):
    clips = [str(write_tone(tmp_path / f"{i}.wav", 0.4 + 0.3 * i, hz=200 + 50 * i)) for i in range(3)]
    conversations = [[{"role": "user", "content": "<|AUDIO|>" + " hm" * i, "audios": [{"audio": c, "text": "w" * i}]}] for i, c in enumerate(clips)]
    conversations.append([{"role": "user", "content": "<|AUDIO|><|AUDIO|> same?", "audios": [{"audio": c, "text": " "} for c in clips[:2]]}])
    together = model.generate(conversations, max_new_tokens=6)
    assert [o.generated_ids for o in together] == [model.generate(c, max_new_tokens=6)[0].generated_ids for c in conversations]
    assert [a for _, a in together[3].audios] == [" ", " "]


def test_text_only_gives_the_plain_llms_answer(model, root):
    plain = AutoModelForCausalLM.from_pretrained(root / "llm", dtype=torch.float32)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the time?"}]
    ids = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = plain.generate(**ids, max_new_tokens=10, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    assert model.generate(messages, max_new_tokens=10)[0].generated_ids == expected


def test_mistakes_are_said_clearly(model, tmp_path):
    good = str(write_tone(tmp_path / "a.wav", 0.5))
    (tmp_path / "broken.wav").write_bytes(b"RIFFxxxx")
    with pytest.raises(ValueError, match=r"1 <.AUDIO.> locators, but 0 clips"):
        model.generate([{"role": "user", "content": "<|AUDIO|> hi"}])
    with pytest.raises(ValueError, match="no audio file"):
        model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": str(tmp_path / "none.wav"), "text": "x"}]}])
    with pytest.raises(ValueError, match="cannot decode"):
        model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": str(tmp_path / "broken.wav"), "text": "x"}]}])
    with pytest.raises(ValueError, match="silent"):
        model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": str(write_tone(tmp_path / "s.wav", 1, amplitude=0)), "text": "x"}]}])
    with pytest.raises(ValueError, match="at most 30 s"):
        model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": torch.ones(16_000 * 31), "text": "x"}]}])
    assert model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": good, "text": None}]}], transcribe=False, max_new_tokens=2)


def test_embedding_scale_starts_the_vectors_as_large_as_embeddings(root):
    torch.manual_seed(0)
    model = DestaModel.from_config(tiny_model_config(root, init=ConnectorInit.embedding_scale, num_queries=32)).eval()
    vectors = model.perception.connect(torch.randn(4, 3, 20, 32))
    assert float(vectors.std()) == pytest.approx(model.backbone.embedding_std, rel=0.35)
