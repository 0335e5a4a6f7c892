"""The server as its clients see it: the official OpenAI client, every kind of bad input, clients that leave, memory."""

import base64
import concurrent.futures
import contextlib
import io
import json
import socket
import time

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from tests.serving.conftest import ask, audio_part, encoded, tone

openai = pytest.importorskip("openai")
KEY = "right-key"


def client(base: str, key: str = "none") -> "openai.OpenAI":
    return openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0, timeout=240)


def post(base: str, messages: object, headers: dict | None = None, **fields: object) -> httpx.Response:
    return httpx.post(f"{base}/v1/chat/completions", json={"messages": messages, **fields}, headers=headers, timeout=240)


def metric(base: str, name: str) -> float:
    lines = httpx.get(f"{base}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and line[len(name)] in " {")


def until(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def base(serve):
    return serve()


def expected(model, clip: bytes, question="What is it?", **sampling) -> str:
    samples, _ = soundfile.read(io.BytesIO(clip), dtype="float32")
    turns = [
        {"role": "system", "content": "Focus on the audio clips and instructions."},
        {"role": "user", "content": f"<|AUDIO|>\n\n{question}", "audios": [{"audio": samples, "text": " "}]},
    ]
    return model.generate(turns, **sampling)[0].text


def test_the_official_client_gets_the_models_answer(base, model):
    clip = encoded(tone(0.7))
    answer = client(base).chat.completions.create(model="tiny", messages=ask(audio_part(clip)), max_tokens=12)
    assert answer.choices[0].message.content == expected(model, clip, max_new_tokens=12) != ""
    assert answer.choices[0].finish_reason in ("stop", "length") and answer.usage.completion_tokens <= 12 and answer.usage.prompt_tokens > 10
    assert answer.nemo_desta["audio"] == [{"clip": 0, "start": 0.0, "end": 0.7, "transcript": ""}]


def test_streamed_pieces_are_the_whole_answer(base):
    settings = {"model": "tiny", "messages": ask(audio_part(encoded(tone()), transcript="a hum")), "max_tokens": 12}
    whole = client(base).chat.completions.create(**settings)
    chunks = list(client(base).chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason
    assert chunks[0].nemo_desta["audio"][0]["transcript"] == "a hum" and len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("kind", ["input_audio", "audio_url"])
def test_a_transcript_may_stand_beside_or_inside_the_clip(base, kind):
    """Beside it is the form that vLLM passes on to its plugin."""

    def answer(inside=None, beside=None):
        sound = audio_part(encoded(tone()))["input_audio"]
        clip = sound if kind == "input_audio" else {"url": f"data:audio/wav;base64,{sound['data']}"}
        return post(base, ask({"type": kind, kind: {**clip, **(inside or {})}, **(beside or {})}), max_tokens=4)

    words, other = {"transcript": "a hum"}, {"transcript": ""}
    said = [answer(words).json(), answer(None, words).json(), answer(words, words).json(), answer({"transcript": None}, words).json()]
    assert {a["nemo_desta"]["audio"][0]["transcript"] for a in said} == {"a hum"} and len({a["choices"][0]["message"]["content"] for a in said}) == 1
    assert len({a["usage"]["prompt_tokens"] for a in said}) == 1 and answer(None, other).json()["usage"]["prompt_tokens"] < said[0]["usage"]["prompt_tokens"]
    for refused in (answer(words, other), answer(other, words)):
        error = refused.json()["error"]
        assert refused.status_code == 400 and error["message"].endswith(": two different transcripts, one beside and one inside the clip: give one")
        assert error["param"] == f"messages.0.content.0.{kind}"
    assert answer(None, {"transcript": 3}).status_code == 400


@pytest.mark.parametrize("token", ["<|placeholder|>", "<|im_end|>"])
def test_a_transcript_with_a_special_token_is_refused_before_its_clip_is_heard(base, model, monkeypatch, token):
    """As the vLLM plugin refuses it."""
    monkeypatch.setattr(model, "taps", lambda clips: pytest.fail("the clip was heard"))
    answer = post(base, ask(audio_part(encoded(tone()), transcript=f"well{token} so")))
    assert answer.status_code == 400 and answer.json()["error"]["message"] == f"a transcript holds the special token '{token}': remove it"


def test_parallel_requests_get_the_answers_they_get_alone(base, model):
    clips = [encoded(tone(0.3 + 0.17 * i, hz=150 + 60 * i)) for i in range(7)]
    wanted = [expected(model, clip, question=f"Take {i}?", max_new_tokens=6 + i) for i, clip in enumerate(clips)]

    def one(i):
        return client(base).chat.completions.create(model="tiny", messages=ask(audio_part(clips[i]), question=f"Take {i}?"), max_tokens=6 + i)

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        answers = [a.choices[0].message.content for a in pool.map(one, range(7))]
    assert answers == wanted
    assert metric(base, "nemo_desta_hearings_total") >= 7


def test_words_alone_several_turns_and_stop_texts(base, model):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go on"}]
    whole = client(base).chat.completions.create(model="tiny", messages=turns, max_tokens=20).choices[0].message.content
    assert whole == model.generate(turns, max_new_tokens=20)[0].text
    stop = whole[len(whole) // 2 :][:2]
    cut = client(base).chat.completions.create(model="tiny", messages=turns, max_tokens=20, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == whole[: whole.index(stop)].strip()


def test_a_long_clip_is_heard_in_windows(base):
    clip = encoded(tone(65.0, rate=8_000), "flac", rate=8_000)
    answer = client(base).chat.completions.create(model="tiny", messages=ask(audio_part(clip, "flac")), max_tokens=3)
    assert [round(block["end"], 1) for block in answer.nemo_desta["audio"]] == [21.7, 43.3, 65.0]


def test_models_health_metrics_and_unknown_paths(base):
    assert [m.id for m in client(base).models.list()] == ["tiny"] and client(base).models.retrieve("tiny").owned_by == "nemo_desta"
    with pytest.raises(openai.NotFoundError):
        client(base).chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert httpx.get(f"{base}/health").json() == {"status": "ok", "model": "tiny"}
    assert httpx.get(f"{base}/metrics").headers["content-type"].startswith("text/plain; version=0.0.4") and metric(base, "nemo_desta_requests_total") > 0
    lost = httpx.get(f"{base}/v1/none")
    assert lost.status_code == 404 and lost.json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{base}/../settings.py").status_code == 404


BAD_CLIPS = [(b"garbage" * 100, 400), (b"", 400), (encoded(tone())[:50], 400), (encoded(np.zeros(9_000, np.float32)), 400), (encoded(tone(), "aiff"), 415)]


@pytest.mark.parametrize(("data", "status"), BAD_CLIPS, ids=range(len(BAD_CLIPS)))
def test_bad_clips_have_their_status(base, data, status):
    answer = post(base, ask(audio_part(data)), stream=True)
    assert answer.status_code == status and answer.json()["error"]["message"] and answer.json()["error"]["param"].startswith("messages.0.content.0")


def test_an_hour_is_refused(base):
    hour = io.BytesIO()
    with soundfile.SoundFile(hour, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(60):
            file.write(np.ones(480_000, np.int16))
    answer = post(base, ask(audio_part(hour.getvalue(), "flac")))
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "audio_too_long"


def test_malformed_bodies(base):
    def sent(content, kind="application/json", **more):
        return httpx.post(f"{base}/v1/chat/completions", content=content, headers={"Content-Type": kind, **more}, timeout=60)

    for content in (b'{"messages": [', b"", b"\xff", b"[" * 100_000, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'):
        answer = sent(content)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"
    assert sent(b"[]").status_code == 400
    assert sent(b"a=b", "application/x-www-form-urlencoded").status_code == 415
    assert sent(b"{}", **{"Content-Encoding": "gzip"}).status_code == 415
    assert httpx.get(f"{base}/v1/chat/completions").status_code == 405
    long = post(base, [{"role": "user", "content": "word " * 3_000}])  # the tiny model's context has 2048 tokens
    assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"
    assert post(base, [{"role": "user", "content": "word " * 380}], max_tokens=900).json()["error"]["code"] == "context_length_exceeded"
    assert post(base, [{"role": "user", "content": "a <|placeholder|> b"}]).status_code == 400


def test_keys(serve, monkeypatch):
    monkeypatch.setenv("NEMO_DESTA_API_KEY", f"other, {KEY}")
    base = serve(web=False)
    turns = [{"role": "user", "content": "Hi"}]
    for wrong in (None, "Bearer wrong", f"Basic {KEY}", "Bearer", "Bearer é".encode()):
        answer = post(base, turns, headers=None if wrong is None else {"Authorization": wrong})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        client(base, "wrong").models.list()
    assert client(base, KEY).chat.completions.create(model="tiny", messages=turns, max_tokens=2).choices
    assert httpx.get(f"{base}/health").status_code == 200


def test_ten_uploads_over_the_limits_get_413_and_429(serve):
    base = serve(limits={"max_body_mib": 0.25, "max_uploads": 3})
    large = [{"role": "user", "content": "x" * 3_000_000}]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        statuses = sorted(r.status_code for r in pool.map(lambda _: post(base, large), range(10)))
    assert set(statuses) <= {413, 429} and 413 in statuses
    chunked = httpx.post(f"{base}/v1/chat/completions", content=iter([b"x" * 100_000] * 9), headers={"Content-Type": "application/json"}, timeout=60)
    assert chunked.status_code == 413
    assert post(base, [{"role": "user", "content": "Hi"}], max_tokens=1).status_code == 200
    assert metric(base, "nemo_desta_uploads_running") == 0


def test_uploads_at_the_same_time_beyond_the_limit_get_429(serve):
    base = serve(limits={"max_uploads": 2, "upload_seconds": 5})
    host, port = base.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(2)]
        for connection in slow:
            connection.sendall(head)
        until(lambda: metric(base, "nemo_desta_uploads_running") == 2)
        ten = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(10)]
        for connection in ten:
            connection.settimeout(60)
            connection.sendall(head + b"x" * 100)
        assert all(b" 429 " in connection.recv(1_000) for connection in ten)
        answer = post(base, [{"role": "user", "content": "Hi"}])
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1" and answer.json()["error"]["type"] == "rate_limit_error"
        slow[0].settimeout(60)
        assert b" 408 " in slow[0].recv(1_000)
    until(lambda: metric(base, "nemo_desta_uploads_running") == 0)


def test_a_full_queue_is_503_and_clients_that_leave_free_their_places(serve, model, monkeypatch):
    monkeypatch.setattr(model.backbone.base.generation_config, "eos_token_id", None)  # no answer ends by itself
    base = serve(max_batch_size=1, limits={"max_queue": 2, "max_new_tokens": 1_000})
    body = {"messages": [{"role": "user", "content": "Tell me all"}], "max_tokens": 1_000, "stream": True, "temperature": 1.5}
    host, port = base.removeprefix("http://").split(":")
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        open_ones = []
        for n in range(3):
            open_ones.append(stack.enter_context(socket.create_connection((host, int(port)))))
            open_ones[-1].sendall(head + raw)
            until(lambda n=n: metric(base, "nemo_desta_requests_running") + metric(base, "nemo_desta_requests_waiting") == n + 1)
        full = post(base, body["messages"])
        assert full.status_code == 503 and full.json()["error"]["code"] == "queue_full" and full.headers["retry-after"]
        assert b"data: " in open_ones[0].recv(10_000)
    until(lambda: metric(base, "nemo_desta_requests_running") == 0 and metric(base, "nemo_desta_requests_waiting") == 0)
    assert metric(base, "nemo_desta_disconnects_total") == 3
    assert post(base, body["messages"], max_tokens=2).status_code == 200


def test_clients_that_leave_before_the_whole_answer_free_their_places(serve, model, monkeypatch):
    monkeypatch.setattr(model.backbone.base.generation_config, "eos_token_id", None)
    base = serve(max_batch_size=1, limits={"max_uploads": 1, "max_new_tokens": 1_500})
    host, port = base.removeprefix("http://").split(":")
    raw = json.dumps({"messages": [{"role": "user", "content": "Tell me all"}], "max_tokens": 1_500}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
    for sent, waits_in in ((raw[:20], "uploads_running"), (raw, "requests_running")):  # half of a request; the whole one, and no part of its answer yet
        gone = metric(base, "nemo_desta_disconnects_total")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + sent)
            until(lambda name=waits_in: metric(base, f"nemo_desta_{name}") == 1)
        until(lambda before=gone: metric(base, "nemo_desta_disconnects_total") == before + 1)
        until(lambda: not any(metric(base, f"nemo_desta_{name}") for name in ("uploads_running", "requests_running", "requests_waiting")))
    assert post(base, [{"role": "user", "content": "Hi"}], max_tokens=2).status_code == 200


def test_memory_stays_flat(base):
    clip = base64.b64encode(encoded(tone(3.0))).decode()
    messages = ask({"type": "input_audio", "input_audio": {"data": clip, "format": "wav"}})
    process = psutil.Process()

    def ask_many(n):
        with httpx.Client(timeout=240) as session:
            for i in range(n):
                bad = i % 4 == 0
                answer = session.post(f"{base}/v1/chat/completions", json={"messages": ask(audio_part(b"x" * 1000)) if bad else messages, "max_tokens": 2})
                assert answer.status_code == (400 if bad else 200)

    ask_many(15)
    before = process.memory_info().rss
    ask_many(40)
    assert process.memory_info().rss - before < 12e6  # 40 clips alone would be 8 MB of samples, 5 MB of base64 and more of features
