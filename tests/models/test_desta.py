"""The model as a whole on tiny random weights: splice, loss, checkpoints, answers."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, Recording
from transformers import AutoModelForCausalLM

from nemo_desta.checkpoint import CheckpointConfig, load_weights, read_config, trainable_state
from nemo_desta.config import ConnectorConfig, ConnectorInit, LoraConfig, ModelConfig, PadTo, Precision
from nemo_desta.data.conversation import render
from nemo_desta.data.dataset import DestaDataset, load_samples
from nemo_desta.data.supervision import add_self_generated
from nemo_desta.models import DestaModel, build
from nemo_desta.models.inference import _hear
from nemo_desta.models.steps import train_step
from tests.tiny import tiny_llm, tiny_model_config, tiny_targets, write_tone


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(root) -> DestaModel:
    torch.manual_seed(0)
    return DestaModel.from_config(tiny_model_config(root)).eval()


def test_a_tokenizer_with_ids_that_the_llm_lacks_is_refused(tmp_path):
    llm = tiny_llm(tmp_path / "llm")
    tokenizer = build.load_tokenizer(str(llm))
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(llm)
    with pytest.raises(ValueError, match=rf"has ids up to {len(tokenizer) - 1}, its config.json vocab_size={len(tokenizer) - 1}: .*tokens were added"):
        build.load_tokenizer(str(llm))


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


def test_a_step_trains_on_rows_about_several_clips(model, cuts):
    """Packed with others as alone; every clip counts, and so does their order."""
    first, second, third = list(cuts)[:3]

    def several(row_id, cut, *others):
        content = "\n".join(f"Clip {n}: <|AUDIO|>" for n in range(1, 2 + len(others))) + "\n\nWhich is higher?"
        about = {"prompt": "Which is higher?", "prompt_id": "c", "prompt_kind": "comparison", "attribute": None, "generator": {"model": "tiny"}}
        return add_self_generated(cut, row_id=row_id, response="The second.", messages=[{"role": "user", "content": content}], clips=others, **about)

    rows = CutSet.from_cuts([several("a", first, second, third), second, several("b", third, first)])
    losses = {}
    for limit in (1, 10_000):
        model.zero_grad()
        step = batch(model, rows, limit)
        assert not step.skipped and step.row_ids == ["row-0-0", "row-0-1", "a", "row-1-0", "row-1-1", "row-2-0", "row-2-1", "b"]
        loss, _ = train_step(model, step.micro_batches, model.trainable_parameters())
        losses[limit] = (loss, torch.cat([p.grad.flatten() for p in model.trainable_parameters()]), len({id(c) for m in step.micro_batches for c in m.clips}))
    assert losses[1][0] == pytest.approx(losses[10_000][0], rel=1e-5) and torch.allclose(losses[1][1], losses[10_000][1], rtol=1e-3, atol=1e-6)
    assert losses[10_000][2] == 3 and losses[1][1].abs().max() > 0
    pairs = [CutSet.from_cuts([several("x", first, other)]) for other in (second, third)]
    alone = [train_step(model, batch(model, pair, 10_000).micro_batches, [])[0] for pair in pairs]
    assert alone[0] != pytest.approx(alone[1], rel=1e-6)


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


def test_every_field_of_the_model_comes_back_from_a_checkpoint(root, tmp_path):
    tiny = tiny_model_config(root)
    cfg = ModelConfig(
        llm=tiny.llm,
        encoder=tiny.encoder,
        placeholder_token="<|x|>",
        pad_to=PadTo.thirty_seconds,
        llm_precision=Precision.bf16,
        encoder_precision=Precision.bf16,
        connector=ConnectorConfig(
            num_layers=3,
            num_queries=7,
            ffn_size=11,
            dropout=0.25,
            taps=[0, 2],
            normalize_taps=True,
            cross_attention_gain=3.0,
            init=ConnectorInit.embedding_scale,
        ),
        lora=LoraConfig(enabled=True, rank=3, alpha=5, dropout=0.5, target_modules=["o_proj"]),
    )
    defaults = ModelConfig(llm="hf://a/b", encoder="hf://a/c")
    for values, usual in ((cfg, defaults), (cfg.connector, defaults.connector), (cfg.lora, defaults.lora)):  # a field added later must get a value here
        # compile is how a model runs, not what it is
        assert all(getattr(values, f.name) != getattr(usual, f.name) for f in dataclasses.fields(values) if f.name != "compile")
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(build.checkpoint_config(cfg, taps=[0, 2], max_transcript_tokens=9))))
    assert build.model_config(read_config(tmp_path), {}) == (cfg, 9)
    assert build.model_config(read_config(tmp_path), {"llm_precision": Precision.fp32})[0].llm_precision == Precision.fp32


def test_the_encoder_precision_of_the_training_machine_is_kept(root):
    cfg = dataclasses.replace(tiny_model_config(root), encoder_precision=Precision.auto)
    own = build.checkpoint_config(cfg, taps=[0], max_transcript_tokens=None).nemo_desta
    assert own["encoder_precision"] in ("fp32", "bf16") and own["llm_precision"] == "fp32"


def test_a_checkpoint_with_another_locator_is_refused():
    with pytest.raises(ValueError, match="audio_locator='<sound>'"):
        build.model_config(CheckpointConfig("a/b", "a/c", audio_locator="<sound>"), {})


def test_a_published_checkpoint_is_heard_as_the_reference_hears():
    cfg, limit = build.model_config(CheckpointConfig("a/b", "a/c"), {})
    assert (cfg.pad_to, cfg.encoder_precision, cfg.llm, cfg.encoder, limit) == (PadTo.thirty_seconds, Precision.fp32, "hf://a/b", "hf://a/c", None)


def test_a_nemo_encoder_on_the_hub_needs_no_transformers_config(root):
    cfg = dataclasses.replace(tiny_model_config(root), encoder="hf://nvidia/canary-1b-flash")
    card = build.checkpoint_config(cfg, taps=[0], max_transcript_tokens=None)
    assert card.encoder_config == {} and card.encoder_model_id == "nvidia/canary-1b-flash" and card.llm_config


def test_lora_learns_and_comes_back_under_the_published_names(root, cuts, tmp_path):
    pytest.importorskip("peft")
    torch.manual_seed(3)
    model = DestaModel.from_config(dataclasses.replace(tiny_model_config(root), lora=LoraConfig(enabled=True, rank=2))).train()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = {name for name in learning if not name.startswith("perception.connector.")}
    assert len(adapters) == 2 * 3 * 2 and all("lora_A" in name or "lora_B" in name for name in adapters)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.5)
    for _ in range(2):  # B starts at zero, so A has a gradient from the second step on
        optimizer.zero_grad()
        train_step(model, batch(model, cuts, 10_000).micro_batches, model.trainable_parameters())
        optimizer.step()
    assert all(float(p.grad.abs().sum()) > 0 for name, p in model.named_parameters() if name in adapters)
    model.eval().save_pretrained(tmp_path / "ckpt")
    published = {name for name in load_weights(tmp_path / "ckpt") if not name.startswith("perception.connector.")}
    pattern = re.compile(r"llm_model\.model\.layers\.[01]\.self_attn\.[qkv]_proj\.lora_[AB]\.default\.weight")
    assert len(published) == len(adapters) and all(pattern.fullmatch(name) for name in published)
    again = DestaModel.from_pretrained(tmp_path / "ckpt")
    micro = batch(model, cuts, 10_000).micro_batches[0]
    with torch.no_grad():
        assert torch.equal(again(micro)[0], model(micro)[0])
        assert not torch.allclose(DestaModel.from_config(tiny_model_config(root)).eval()(micro)[0], model(micro)[0], rtol=1e-3)


class Scribe:
    """Writes down how long a clip is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.device: torch.device | None = None

    def to(self, device):
        self.device = device
        return self

    def transcribe(self, samples):
        self.calls.append(len(samples))
        return [f"{len(x)} samples" for x in samples]


def test_open_transcripts_of_a_whole_batch_are_written_in_one_call(model, tmp_path, monkeypatch):
    scribe = Scribe()
    monkeypatch.setattr(model, "transcriber", scribe)
    clips = [str(write_tone(tmp_path / f"{i}.wav", 0.5 + 0.1 * i)) for i in range(4)]
    texts = [None, " my OWN words ", None, None]
    audios = [{"audio": clip, "text": text} for clip, text in zip(clips, texts, strict=True)]
    conversations = [
        [{"role": "user", "content": "<|AUDIO|> and <|AUDIO|>?", "audios": audios[:2]}],
        [{"role": "user", "content": "No clip."}],
        [{"role": "user", "content": "<|AUDIO|>", "audios": audios[2:3]}],
        [{"role": "user", "content": "<|AUDIO|>", "audios": audios[3:]}],
    ]
    shown = [[text for _, text in out.audios] for out in model.generate(conversations, max_new_tokens=1)]
    assert shown == [["8000 samples", " my OWN words "], [], ["11200 samples"], ["12800 samples"]]
    assert scribe.calls == [3] and scribe.device == model.device
    blank = model.generate(conversations, max_new_tokens=1, transcribe=False)
    assert [[text for _, text in out.audios] for out in blank] == [["", " my OWN words "], [], [""], [""]] and scribe.calls == [3]


@pytest.mark.assets
def test_whisper_base_fills_in_the_words_of_real_clips(root, tmp_path, asset):
    from nemo_desta.corpora.audio import decode, to_mono_16k

    found = asset("asterisk-core-sounds-en-g722", "whisper-base")
    torch.manual_seed(0)
    tiny = tiny_model_config(root, taps=[1, 5])
    model = DestaModel.from_config(dataclasses.replace(tiny, encoder=str(found["whisper-base"]))).eval()
    speech = to_mono_16k(*decode(next(found["asterisk-core-sounds-en-g722"].rglob("vm-goodbye.g722"))))
    noise = 0.01 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    conversations = [[{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": clip, "text": None}]}] for clip in (speech, noise)]
    (said,), (nothing,) = (out.audios for out in model.generate(conversations, max_new_tokens=1))
    assert "goodbye" in said[1].lower() and nothing == ("samples", "")


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


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (np.full(8_000, 12_000, dtype=np.int16), r"samples of type torch\.int16: give floating-point samples in \[-1, 1\]"),
        (torch.ones(8_000, dtype=torch.int32), "divided by 32768"),
        (np.zeros((2, 8_000), dtype=np.float32), "one channel"),
        (np.zeros(8_000, dtype=np.float32), "silent"),
        (np.full(8_000, np.nan), "not finite"),
        (np.ones(800), "too short"),
    ],
)
def test_samples_that_cannot_be_heard_are_refused(model, samples, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate([{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": samples, "text": "x"}]}])


def test_embedding_scale_starts_the_vectors_as_large_as_embeddings(root):
    torch.manual_seed(0)
    model = DestaModel.from_config(tiny_model_config(root, init=ConnectorInit.embedding_scale, num_queries=32)).eval()
    vectors = model.perception.connect(torch.randn(4, 3, 20, 32))
    assert float(vectors.std()) == pytest.approx(model.backbone.embedding_std, rel=0.35)


def test_a_clip_of_several_conversations_is_heard_once(model, tmp_path, monkeypatch):
    clip, other = (str(write_tone(tmp_path / f"{hz}.wav", 0.5, hz=hz)) for hz in (200, 300))
    ask = [[{"role": "user", "content": f"<|AUDIO|> {q}?", "audios": [{"audio": c, "text": " "}]}] for q, c in (("a", clip), ("b", other), ("c", clip))]
    alone = [model.generate(c, max_new_tokens=5)[0].generated_ids for c in ask]
    counts, hear = [], model.hear
    monkeypatch.setattr(model, "hear", lambda clips: counts.append(len(clips)) or hear(clips))
    assert [o.generated_ids for o in model.generate(ask, max_new_tokens=5)] == alone
    assert counts == [2]


def test_cuts_of_one_name_are_told_apart(model, tmp_path):
    cuts = [Recording.from_file(write_tone(tmp_path / f"{hz}" / "a.wav", 0.5, hz=hz), recording_id="a").to_cut().with_id("a") for hz in (200, 900)]
    known = {}
    first, second = (_hear({"audio": cut, "text": " "}, known) for cut in cuts)
    assert first.samples_T is not second.samples_T and not torch.equal(first.samples_T, second.samples_T)
    assert _hear({"audio": cuts[0], "text": " "}, known).samples_T is first.samples_T
