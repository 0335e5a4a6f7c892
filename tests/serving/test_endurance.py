"""Five hundred requests at the program itself, good ones and every kind of bad one: right status each time, no crash, memory flat."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from tests.serving.conftest import ask, audio_part, encoded, tone

ROOT = Path(__file__).resolve().parents[2]
REQUESTS, WARM_UP = 500, 60
KEY = "right-key"
CHILD = """
import json, sys
from nemo_desta.serving.server import serve
from nemo_desta.serving.settings import LimitsConfig, ServeConfig
limits = LimitsConfig(max_body_mib=1.0)
serve(ServeConfig(checkpoint="tiny-random", port=int(sys.argv[1]), shutdown_seconds=5, num_threads=1, limits=limits))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a server with the made model, Whisper's transcripts included."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"NEMO_DESTA_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("endurance")
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(port)], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    base, until = f"http://127.0.0.1:{port}", time.monotonic() + 280
    try:
        while not _healthy(base):
            assert child.poll() is None and time.monotonic() < until, (folder / "log.txt").read_text()
            time.sleep(0.5)
        yield base, psutil.Process(child.pid)
        assert child.poll() is None, (folder / "log.txt").read_text()
    finally:
        child.kill()
        child.wait()


def _healthy(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _hour() -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8_000, 1, format="FLAC") as sound:
        for _ in range(60):
            sound.write(np.full(480_000, 7, np.int16))
    return file.getvalue()


def _leave_in_mid_stream(base: str, body: dict) -> None:
    """Read the beginning of a streamed answer and close the connection."""
    with httpx.stream("POST", f"{base}/v1/chat/completions", json=body | {"stream": True}, headers={"Authorization": f"Bearer {KEY}"}, timeout=240) as answer:
        assert answer.status_code == 200 and next(answer.iter_lines()).startswith("data: ")


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_memory_is_flat_over_500_requests_of_every_kind(server, capsys):
    base, process = server
    clips = [encoded(tone(0.4 + 0.3 * i, hz=150 + 50 * i)) for i in range(8)]
    hour, broken = _hour(), [b"no sound" * 200, encoded(tone())[:50], b""]
    too_large = json.dumps({"messages": [{"role": "user", "content": "x" * 2_000_000}]}).encode()

    def send(content: bytes, key: str = KEY) -> int:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        return client.post(f"{base}/v1/chat/completions", content=content, headers=headers).status_code

    def one(i: int) -> None:
        heard = ask(audio_part(clips[i % 8], **({} if i % 3 == 0 else {"transcript": "a hum"})))  # every third one is transcribed
        body = {"messages": heard, "max_tokens": 4}
        match i % 10:
            case 0:
                assert send(json.dumps(body | {"messages": ask(audio_part(broken[i // 10 % 3]))}).encode()) == 400
            case 2:
                assert send(b'{"messages": [') == 400
            case 4:
                assert send(json.dumps(body).encode(), key="wrong") == 401
            case 5:
                _leave_in_mid_stream(base, body | {"max_tokens": 400})
            case 6:
                assert send(too_large) == 413
            case 8:
                assert send(json.dumps({"messages": ask(audio_part(hour, "flac"))}).encode()) == 413
            case _:
                assert send(json.dumps(body).encode()) == 200

    sizes = []
    with httpx.Client(timeout=240) as client:
        for start, stop in ((0, WARM_UP), (WARM_UP, WARM_UP + REQUESTS // 2), (WARM_UP + REQUESTS // 2, WARM_UP + REQUESTS)):
            for i in range(start, stop):
                one(i)
            sizes.append(process.memory_info().rss / 1e6)
    with capsys.disabled():
        before, middle, after = (f"{size:.1f} MB" for size in sizes)
        sys.stderr.write(f"\nresident memory of the server: {before} before, {middle} in the middle, {after} after {REQUESTS} requests\n")
    # The clips alone are 50 MB of samples, the refused bodies 100 MB and the hours 3 GB; what is left is the allocator's.
    assert sizes[2] - sizes[0] < 25 and sizes[2] - sizes[1] < 12
    lines = httpx.get(f"{base}/metrics").text.splitlines()
    waiting = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(("nemo_desta_requests_running ", "nemo_desta_requests_waiting "))]
    assert len(waiting) == 2 and waiting[1] == 0 and httpx.get(f"{base}/health").status_code == 200
