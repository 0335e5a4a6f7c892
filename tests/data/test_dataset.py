"""Clips of every kind become batches or counted skips, never tracebacks."""

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.utils import fastcopy

from nemo_desta.config import Overlong
from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.data.conversation import AudioLayout
from nemo_desta.data.dataset import DestaDataset, load_samples, training_units
from nemo_desta.data.supervision import add_self_generated, further_clips
from nemo_desta.data.taps_cache import TapsCache, clip_key
from tests.tiny import PLACEHOLDER, tiny_targets, tiny_tokenizer, write_tone

LAYOUT = AudioLayout(PLACEHOLDER, 3)


def cut_of(path):
    return Recording.from_file(path).to_cut()


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(8_000, 1, "PCM_16"), (48_000, 2, "PCM_24"), (44_100, 1, "FLOAT"), (16_000, 2, "PCM_16")])
def test_any_format_becomes_mono_16_khz(tmp_path, rate, channels, subtype):
    t = np.arange(rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 300 * t)
    soundfile.write(tmp_path / "a.wav", np.stack([tone] * channels, axis=1), rate, subtype=subtype)
    samples = load_samples(cut_of(tmp_path / "a.wav"))
    assert samples.dtype == torch.float32 and samples.shape == (16_000,)
    spectrum = np.abs(np.fft.rfft(samples.numpy()))
    assert abs(int(spectrum.argmax()) - 300) <= 1 and float(samples.abs().max()) == pytest.approx(0.4, abs=0.02)


def test_unusable_clips_say_why(tmp_path):
    good = write_tone(tmp_path / "good.flac", 0.5)
    cut = cut_of(good)
    with pytest.raises(ValueError, match="silent"):
        load_samples(cut_of(write_tone(tmp_path / "silent.wav", 0.5, amplitude=0.0)))
    with pytest.raises(ValueError, match="too short"):
        load_samples(cut_of(write_tone(tmp_path / "short.wav", 0.05)))
    good.write_bytes(good.read_bytes()[:200])
    with pytest.raises(ValueError, match="undecodable"):
        load_samples(cut)
    good.unlink()
    with pytest.raises(ValueError, match="undecodable"):
        load_samples(cut)


def test_long_rows_and_bad_clips_are_left_out_and_named(tmp_path):
    cuts = tiny_targets(tmp_path, clips=4)
    (tmp_path / "audio" / "tone2.flac").unlink()
    dataset = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=95)
    step = dataset[cuts]
    reasons = dict(step.skipped)
    assert {"row-2-0", "row-2-1"} <= set(reasons) and "undecodable" in reasons["row-2-0"]
    long = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=20)[cuts]
    assert not long.micro_batches and all("too long" in why or "undecodable" in why for _, why in long.skipped) and len(long.skipped) == 8


def test_a_long_row_can_lose_the_end_of_its_response_but_nothing_of_its_prompt(tmp_path):
    (cut,) = tiny_targets(tmp_path, clips=1, rows_each=2)
    cut.supervisions[1].text = "A long tone. " * 20
    cut.supervisions[2].custom["messages"] = [{"role": "user", "content": "<|AUDIO|> " + "What is it? " * 40}]
    cuts = CutSet.from_cuts([cut])

    def step_of(max_tokens, overlong=Overlong.cut):
        return DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=max_tokens, overlong=overlong)[cuts]

    whole = step_of(2000)
    (batch,) = whole.micro_batches
    end = int(batch.tokens.cu_seqlens_S1[1])
    prompt = int((batch.tokens.labels_T[:end] == -100).sum())
    for limit in (prompt + 1, end - 1):
        step = step_of(limit)
        (shorter,) = step.micro_batches
        assert step.row_ids == ["row-0-0"] and shorter.tokens.num_targets == limit - prompt
        assert torch.equal(shorter.tokens.input_ids_T, batch.tokens.input_ids_T[:limit])
        assert torch.equal(shorter.tokens.labels_T, batch.tokens.labels_T[:limit])
        assert torch.equal(shorter.tokens.slots_PQ, batch.tokens.slots_PQ[:1])
        ((row, why),) = step.skipped
        assert row == "row-0-1" and "its prompt alone has" in why and f"data.max_tokens={limit}" in why
    assert not step_of(prompt).micro_batches and not step_of(end - 1, Overlong.skip).micro_batches
    assert step_of(end).micro_batches[0].tokens.labels_T[-1] == tiny_tokenizer().eos_token_id


def with_messages(cut, *contents):
    """The cut with its rows' messages replaced, one row a content."""
    rows = [fastcopy(row, custom={**row.custom, "messages": [{"role": "user", "content": c}]}) for row, c in zip(cut.supervisions[1:], contents, strict=True)]
    return fastcopy(cut, supervisions=[cut.supervisions[0], *rows])


def test_rows_that_cannot_be_rendered_are_left_out_and_named(tmp_path):
    good, bad = tiny_targets(tmp_path, clips=2, rows_each=4)
    bad = with_messages(bad, "No clip here.", "<|AUDIO|> or <|AUDIO|>?", f"<|AUDIO|> {PLACEHOLDER}", "<|AUDIO|> fine")
    empty = fastcopy(good.supervisions[1], id="empty", custom={k: v for k, v in good.supervisions[1].custom.items() if k != "messages"})
    good = fastcopy(good, supervisions=[*good.supervisions, empty])
    step = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500)[CutSet.from_cuts([good, bad])]
    reasons = dict(step.skipped)
    assert step.row_ids == ["row-0-0", "row-0-1", "row-0-2", "row-0-3", "row-1-3"]
    assert step.audio_seconds == pytest.approx(4 * good.duration + bad.duration)
    assert "0 <|AUDIO|> locators" in reasons["row-1-0"] and "2 <|AUDIO|> locators" in reasons["row-1-1"]
    assert "placeholder token" in reasons["row-1-2"] and "no messages" in reasons["empty"] and len(reasons) == 4


def test_a_clip_beyond_the_encoders_window_is_left_out_and_named(tmp_path):
    (cut,) = tiny_targets(tmp_path, clips=1)
    long = cut_of(write_tone(tmp_path / "long.wav", 31.5))
    long.supervisions, long.custom = cut.supervisions, cut.custom
    step = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500)[CutSet.from_cuts([long])]
    assert not step.row_ids and [row for row, _ in step.skipped] == ["row-0-0", "row-0-1"]
    assert all("31.50 s" in why and "at most 30 s" in why for _, why in step.skipped)
    assert load_samples(cut_of(write_tone(tmp_path / "whole.wav", 30.0))).shape == (480_000,)


def test_transcripts_are_dropped_by_row_and_epoch_not_by_chance(tmp_path):
    cuts = tiny_targets(tmp_path, clips=12)
    dataset = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500, transcript_drop_prob=0.5, seed=1)
    one, same, other = (dataset[CutSet.from_cuts(c.with_custom("epoch", e) for c in cuts)] for e in (0, 0, 1))
    lengths = [s.micro_batches[0].tokens.num_tokens for s in (one, same, other)]
    none = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500)[cuts].micro_batches[0].tokens.num_tokens
    assert lengths[0] == lengths[1] < none and lengths[0] != lengths[2]


def test_units_group_the_rows_of_a_clip(tmp_path):
    cuts = tiny_targets(tmp_path, clips=2, rows_each=5)
    assert [len(u.supervisions) - 1 for u in training_units(cuts, 2)] == [2, 2, 1, 2, 2, 1]
    assert len(training_units(cuts, 1)) == 10
    with pytest.raises(ValueError, match=r"data\.rows_per_clip=0"):
        training_units(cuts, 0)


def test_taps_cache_keeps_bounds_and_survives_damage(tmp_path):
    cache = TapsCache(tmp_path / "taps", encoder_id="e", max_bytes=2 * 4 * 5 * 8 * 2 + 10)
    taps = torch.randn(4, 5, 8)
    cache.put("aa1", taps)
    cache.put("aa2", taps)
    cache.put("aa3", taps)
    assert cache.full and cache.get("aa3") is None
    assert torch.equal(cache.get("aa1"), taps.bfloat16())
    path = next((tmp_path / "taps").rglob("aa2.safetensors"))
    path.write_bytes(b"damaged")
    assert cache.get("aa2") is None and not path.exists()
    assert TapsCache(tmp_path / "taps", encoder_id="other", max_bytes=10**6).get("aa1") is None


def test_a_disk_that_cannot_be_written_ends_caching_not_the_run(tmp_path, monkeypatch):
    cache = TapsCache(tmp_path / "taps", encoder_id="e", max_bytes=10**6)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nemo_desta.data.taps_cache.save_file", full)
    cache.put("aa1", torch.zeros(1, 1, 1))
    assert cache.full and cache.get("aa1") is None and not list((tmp_path / "taps").rglob("*.part"))


def test_clip_key_changes_with_the_file(tmp_path):
    cut = cut_of(write_tone(tmp_path / "a.flac", 0.5))
    before = clip_key(cut)
    assert clip_key(cut) == before != clip_key(cut.truncate(duration=0.3))
    write_tone(tmp_path / "a.flac", 0.6, hz=500)
    assert clip_key(cut) != before


def test_clip_key_tells_sounds_in_memory_apart(tmp_path):
    sounds = [write_tone(tmp_path / f"{hz}.wav", 0.5, hz=hz).read_bytes() for hz in (200, 900)]
    keys = {clip_key(Recording.from_bytes(sound[:-400] + bytes(400), recording_id="x").to_cut()) for sound in sounds}  # the same end
    assert len(keys) == 2


def test_prompts_are_the_rows_without_their_responses(tmp_path):
    cuts = CutSet.from_cuts(list(training_units(tiny_targets(tmp_path, clips=2, rows_each=1))))
    dataset = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=1000, max_tokens=256)
    rows, prompts = dataset[cuts], dataset.prompts(cuts)
    assert prompts.row_ids == rows.row_ids and len(prompts.micro_batches) == 1
    (batch,), (whole,) = prompts.micro_batches, rows.micro_batches
    ids = batch.tokens.input_ids_T.view(2, -1)
    for i, (start, end) in enumerate(zip(whole.tokens.cu_seqlens_S1[:-1].tolist(), whole.tokens.cu_seqlens_S1[1:].tolist(), strict=True)):
        context = int((whole.tokens.labels_T[start:end] == -100).sum())
        assert ids[i, -context:].tolist() == whole.tokens.input_ids_T[start : start + context].tolist() and not ids[i, :-context].any()
    assert len(batch.clips) == 2 and dataset.without_cache().cache is None


def comparison(cut, others, *, row_id="both"):
    """The cut with one more row, which is about further clips too."""
    locators = " ".join(["<|AUDIO|>"] * (1 + len(others)))
    messages = [{"role": "user", "content": f"{locators}\n\nWhich is higher?"}]
    about = {"prompt": "Which is higher?", "prompt_id": "c", "prompt_kind": "comparison", "attribute": None, "generator": {"model": "tiny"}}
    return add_self_generated(cut, row_id=row_id, response="The second.", messages=messages, clips=others, **about)


def test_a_row_about_several_clips_hears_each_once(tmp_path):
    first, second, third = tiny_targets(tmp_path, clips=3, rows_each=1)
    cuts = CutSet.from_cuts([comparison(first, [second, third]), second])
    step = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500)[cuts]
    assert step.row_ids == ["row-0-0", "both", "row-1-0"] and not step.skipped
    (batch,) = step.micro_batches
    assert len(batch.clips) == 3 and batch.tokens.clip_of_span_P.tolist() == [0, 0, 1, 2, 1], "clips in the order in which rows name them"
    assert torch.equal(batch.clips[1].samples_T, load_samples(second)) and torch.equal(batch.clips[2].samples_T, load_samples(third))
    assert step.audio_seconds == pytest.approx(2 * first.duration + 2 * second.duration + third.duration)
    placeholder = tiny_tokenizer()(PLACEHOLDER)["input_ids"][0]
    assert all((batch.tokens.input_ids_T[slots] == placeholder).all() for slots in batch.tokens.slots_PQ)


def test_a_further_clip_that_cannot_be_heard_costs_its_row_alone(tmp_path):
    first, second, third = tiny_targets(tmp_path, clips=3, rows_each=1)
    (tmp_path / "audio" / "tone1.flac").unlink()
    step = DestaDataset(tiny_tokenizer(), LAYOUT, micro_batch_tokens=10_000, max_tokens=500)[CutSet.from_cuts([comparison(first, [second]), third])]
    assert step.row_ids == ["row-0-0", "row-2-0"] and "tone-1" in dict(step.skipped)["both"] and "undecodable" in dict(step.skipped)["both"]


def test_a_row_about_several_clips_survives_a_manifest(tmp_path):
    first, second = tiny_targets(tmp_path, clips=2, rows_each=1)
    write_cuts(tmp_path / "cuts.jsonl.gz", [comparison(first, [second])])
    (cut,) = read_cuts(tmp_path / "cuts.jsonl.gz")
    (other,) = further_clips(cut.supervisions[2])
    assert further_clips(cut.supervisions[2]) == [other], "what was read can be read again"
    assert other.id == second.id and other.supervisions[0].text == second.supervisions[0].text and clip_key(other) == clip_key(second)
    broken = fastcopy(cut.supervisions[2], custom={**cut.supervisions[2].custom, "clips": [{"id": "x"}]})
    with pytest.raises(ValueError, match="further clips cannot be read"):
        further_clips(broken)
