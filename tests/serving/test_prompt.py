"""Chat requests to conversations: where clips stand, windows, limits, and what may be read."""

import json
from dataclasses import replace

import pytest
import torch

from nemo_desta.serving import schema
from nemo_desta.serving.errors import ApiError
from nemo_desta.serving.prompt import conversation
from nemo_desta.serving.settings import AccessConfig, LimitsConfig
from nemo_desta.serving.sources import Sources
from tests.serving.conftest import ask, audio_part, encoded, tone

LIMITS = LimitsConfig()


def parsed(messages, **fields):
    return schema.parse(json.dumps({"messages": messages, **fields}).encode())


def made(messages, system=None, access=None, **limits):
    return conversation(parsed(messages), replace(LIMITS, **limits), Sources(access or AccessConfig(), 1 << 20), system)


def refused(messages, **options):
    with pytest.raises(ApiError) as error:
        made(messages, **options)
    return error.value


def test_a_clip_stands_where_its_part_stands():
    talk = made(ask(audio_part(encoded(tone())), question="Who speaks?"), system="Listen.")
    assert talk.turns == [{"role": "system", "content": "Listen."}, {"role": "user", "content": "<|AUDIO|>\n\nWho speaks?"}]
    assert len(talk.blocks) == 1 and talk.blocks[0].samples_T.shape == (8_000,) and talk.blocks[0].transcript is None


def test_a_text_may_say_where_the_clips_stand():
    clip = audio_part(encoded(tone()))
    talk = made(ask(clip, clip, question="First <|AUDIO|> then <start_audio><|AUDIO|><end_audio>: which is louder?"))
    assert talk.turns[0]["content"] == "First <|AUDIO|> then <|AUDIO|>: which is louder?" and [b.clip for b in talk.blocks] == [0, 1]
    assert refused(ask(clip, clip, question="Only <|AUDIO|>")).status == 400
    assert refused([{"role": "user", "content": "<|AUDIO|> without a clip"}]).status == 400


def test_words_only_stay_as_they_are():
    talk = made([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}], system="Listen.")
    assert talk.turns == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}] and not talk.blocks
    assert made([{"role": "user", "content": "Hi"}], system="Listen.").turns == [{"role": "user", "content": "Hi"}]


def test_a_long_clip_becomes_windows_with_a_block_each():
    samples = tone(70.0, rate=8_000)
    talk = made(ask(audio_part(encoded(samples, rate=8_000), transcript="all the words")))
    assert talk.turns[0]["content"].startswith("<|AUDIO|>\n<|AUDIO|>\n<|AUDIO|>\n\n")
    assert [(round(b.start, 2), round(b.end, 2)) for b in talk.blocks] == [(0, 23.33), (23.33, 46.67), (46.67, 70)]
    assert [b.transcript for b in talk.blocks] == ["all the words", "", ""]
    assert torch.cat([b.samples_T for b in talk.blocks]).shape == (70 * 16_000,) and talk.seconds == pytest.approx(70)


def test_limits():
    clip = audio_part(encoded(tone(1.0)))
    assert refused(ask(clip, clip, clip), max_clips=2).code == "too_many_clips"
    together = refused(ask(clip, clip), max_audio_seconds=1.5)
    assert (together.status, together.code, together.param) == (413, "audio_too_long", "messages.0.content.1.input_audio")
    assert refused(ask(audio_part(encoded(tone(61, rate=8_000), rate=8_000))), max_blocks=2).status == 413
    assert refused(ask(clip, question="x" * 101), max_text_chars=100).status == 413
    assert refused(ask(audio_part(encoded(tone()), "midi"))).status == 415


def test_addresses_and_files_are_closed_unless_opened(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(encoded(tone()))
    (tmp_path / "secret.wav").write_bytes(encoded(tone()))
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "secret.wav")

    def url(address):
        return ask({"type": "audio_url", "audio_url": {"url": address}})

    inside = f"file://{tmp_path}/in/a.wav"
    for closed in (inside, "http://127.0.0.1:1/a.wav", "https://example.com/a.wav", "ftp://example.com/a", "/etc/passwd", "http://[", "x" * 50):
        assert refused(url(closed)).status == 400
    opened = AccessConfig(allowed_audio_dirs=[str(tmp_path / "in")])
    assert len(made(url(inside), access=opened).blocks) == 1
    for outside in (f"file://{tmp_path}/secret.wav", f"file://{tmp_path}/in/../secret.wav", f"file://{tmp_path}/in/link.wav", "file://host/etc/passwd"):
        assert refused(url(outside), access=opened).code == "url_not_allowed"
    assert refused(url(f"file://{tmp_path}/in/none.wav"), access=opened).code == "audio_not_found"
    hosts = AccessConfig(allowed_url_hosts=["127.0.0.1"], url_seconds=2)
    assert refused(url("http://127.0.0.1:1/a.wav"), access=hosts).code == "audio_not_found"
    assert refused(url("http://127.0.0.2:1/a.wav"), access=hosts).code == "url_not_allowed"


WRONG = [
    (b"{", "invalid_json"),
    (b"", "invalid_json"),
    (b"[" * 5000, "invalid_json"),
    (b"\xff\xfe", "invalid_json"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
    (b"[]", "invalid_request"),
    (b"{}", "invalid_request"),
    (b'{"messages": []}', "invalid_request"),
    (b'{"messages": [{"role": "king", "content": "x"}]}', "invalid_request"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}', "invalid_request"),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 9}', "invalid_request"),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "invalid_request"),
    (b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', "unsupported_parameter"),
    (b'{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}', "unsupported_parameter"),
    (b'{"messages": [{"role": "user", "content": "x"}], "stop": ["1", "2", "3", "4", "5"]}', "invalid_value"),
]


@pytest.mark.parametrize(("body", "code"), WRONG, ids=range(len(WRONG)))
def test_wrong_bodies_are_named(body, code):
    with pytest.raises(ApiError) as error:
        schema.parse(body)
    assert error.value.status == 400 and error.value.code == code


def test_the_field_is_named_and_harmless_extras_are_taken():
    with pytest.raises(ApiError) as error:
        parsed([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]}])
    assert error.value.param is not None and error.value.param.endswith("data")
    assert parsed([{"role": "user", "content": "x"}], user="me", n=1, tools=None, presence_penalty=0, stop="").stops == []
