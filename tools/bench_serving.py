"""Measure servers that speak OpenAI's chat API with audio, on the same clips in one run.

    python examples/serve.py checkpoint=DIR &
    python tools/bench_serving.py --target pytorch=http://127.0.0.1:8000/v1 --clips runs/mini/corpus --requests 32 --output docs/benchmarks/serving.md
    python tools/bench_serving.py --target pytorch=http://gpu:8000/v1 --target vllm=http://gpu:8001/v1 --clips CLIPS --checkpoint DIR
    python tools/bench_serving.py --target pytorch=http://127.0.0.1:8000/v1 --bundle BUNDLE --transcript '' --clips CLIPS

Without `--transcript` each server transcribes in its own way; `--transcript ''` asks `examples/serve.py`, `vllm serve` and a bundle for exactly the same thing.

Each target is asked at every concurrency with the same clips and questions, greedily, after two requests that are not counted. Time to first token
counts from the start of sending to the first piece of text, so it holds upload, queue, encoder, transcript and prompt; tokens/s and requests/s are over the
wall time of the whole level. `--checkpoint` adds the encoder's real-time factor (seconds of work per second of sound), measured in this process.

`--bundle` adds ONNX Runtime on an exported bundle (targets onnx, onnx_decoder and hf), in this process and without HTTP. It has no queue: as many requests
as the concurrency says are answered as one batch, which ends with its longest answer. It has no Whisper decoder either, hence `--transcript`.
"""

import argparse
import base64
import concurrent.futures
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import soundfile

SUFFIXES = (".wav", ".flac", ".mp3")
Way = Callable[[Sequence[dict[str, Any]], int], tuple["Level", list[str | None]]]
"""Requests and a concurrency to figures and answers."""


@dataclass(frozen=True)
class Answer:
    """One request's figures: seconds to the first text (None = no text), seconds in all, tokens of the answer, its text."""

    first: float | None
    whole: float
    tokens: int
    text: str


@dataclass(frozen=True)
class Level:
    """One target at one concurrency."""

    target: str
    concurrency: int
    requests: int
    failed: int
    first_ms: float
    first_p95_ms: float
    tokens_per_second: float
    requests_per_second: float


def find_clips(places: Sequence[str], count: int) -> list[Path]:
    """Sound files below the given places, evenly chosen.

    Raises:
        ValueError: there are none.
    """
    files = [p for place in map(Path, places) for p in ([place] if place.is_file() else sorted(place.rglob("*"))) if p.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"no {', '.join(SUFFIXES)} files in {', '.join(places)}")
    step = max(1, len(files) // count)
    return files[::step][:count]


def body(clip: Path, question: str, tokens: int, transcript: str | None) -> dict[str, Any]:
    """The request about a clip."""
    sound: dict[str, Any] = {"type": "input_audio"}
    sound["input_audio"] = {"data": base64.b64encode(clip.read_bytes()).decode(), "format": clip.suffix[1:].lower()}
    if transcript is not None:
        sound["transcript"] = transcript  # beside the clip: vLLM drops what it does not know inside of it
    turns = [{"role": "user", "content": [sound, {"type": "text", "text": question}]}]
    return {"messages": turns, "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}


def ask(client: httpx.Client, url: str, request: dict[str, Any]) -> Answer:
    """Send a request and read its stream.

    Raises:
        httpx.HTTPError: no answer, or a status other than 200.
    """
    began, first, text, tokens = time.perf_counter(), None, "", 0
    with client.stream("POST", f"{url}/chat/completions", json=request) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            piece = json.loads(line[6:])
            said = "".join(choice["delta"].get("content") or "" for choice in piece.get("choices", ()))
            if said and first is None:
                first = time.perf_counter() - began
            text += said
            tokens = (piece.get("usage") or {}).get("completion_tokens", tokens)
    return Answer(first, time.perf_counter() - began, tokens, text)


def measure(name: str, url: str, requests: Sequence[dict[str, Any]], concurrency: int, key: str | None) -> tuple[Level, list[str | None]]:
    """All requests at one concurrency; the figures and the answers in order (None = failed)."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=concurrency)
    with httpx.Client(timeout=600, headers=headers, limits=limits) as client, concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        model = client.get(f"{url}/models").raise_for_status().json()["data"][0]["id"]
        jobs = [{**request, "model": model} for request in requests]

        def one(job: dict[str, Any]) -> Answer | None:
            try:
                return ask(client, url, job)
            except httpx.HTTPError as error:
                sys.stderr.write(f"{name}: {error}\n")
                return None

        began = time.perf_counter()
        answers = list(pool.map(one, jobs))
        seconds = time.perf_counter() - began
    return summary(name, concurrency, answers, seconds)


def summary(name: str, concurrency: int, answers: Sequence[Answer | None], seconds: float) -> tuple[Level, list[str | None]]:
    """Figures of a level, and the answers' texts."""
    good = [answer for answer in answers if answer is not None]
    firsts = sorted(1000 * a.first for a in good if a.first is not None) or [float("nan")]
    tokens = sum(a.tokens for a in good) / seconds
    p95 = firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))]
    level = Level(name, concurrency, len(answers), len(answers) - len(good), statistics.median(firsts), p95, tokens, len(good) / seconds)
    return level, [answer.text if answer else None for answer in answers]


class BundleTarget:
    """ONNX Runtime on an exported bundle, asked what the servers are asked.

    Args:
        bundle: with the targets onnx, onnx_decoder and hf.
        threads: of ONNX Runtime; 0 = its own choice.

    Raises:
        ValueError: a part is missing.
    """

    def __init__(self, bundle: Path, threads: int) -> None:
        from transformers import AutoTokenizer

        from nemo_desta.data.conversation import AudioLayout
        from nemo_desta.export.runtime import OnnxModel

        if not (bundle / "llm" / "hf").is_dir():
            raise ValueError(f"{bundle} has no llm/hf, whose tokenizer is needed: export it with targets=[onnx,onnx_decoder,hf]")
        self.model = OnnxModel(bundle, threads=threads)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(bundle / "llm" / "hf")
        card = self.model.tower.contract
        self.layout = AudioLayout(card["placeholder_token"], card["num_queries"], None)

    def measure(self, name: str, requests: Sequence[dict[str, Any]], concurrency: int) -> tuple[Level, list[str | None]]:
        """All requests, as many at a time as the concurrency says."""
        began = time.perf_counter()
        answers: list[Answer | None] = [a for i in range(0, len(requests), concurrency) for a in self._batch(requests[i : i + concurrency])]
        return summary(name, concurrency, answers, time.perf_counter() - began)

    def _batch(self, requests: Sequence[dict[str, Any]]) -> list[Answer]:
        from nemo_desta.serving.audio import decode_clip, from_base64

        began = time.perf_counter()
        sounds = [request["messages"][-1]["content"][0]["input_audio"] for request in requests]
        clips = [decode_clip(from_base64(sound["data"], param="data"), max_seconds=30, param="data") for sound in sounds]
        prompts = [self._prompt(request, row) for row, request in enumerate(requests)]
        ids: list[list[int]] = [[] for _ in requests]
        first = 0.0
        embeds, mask = self.model.decoder.embed(prompts, self.model.tower(clips))
        for tokens in self.model.decoder.stream(embeds, mask, requests[0]["max_tokens"]):
            first = first or time.perf_counter() - began
            for answer, token in zip(ids, tokens, strict=True):
                answer += [] if token is None else [token]
        whole = time.perf_counter() - began
        return [Answer(first, whole, len(answer), self.tokenizer.decode(answer, skip_special_tokens=True).strip()) for answer in ids]

    def _prompt(self, request: dict[str, Any], row: int) -> Any:
        """The prompt that `examples/serve.py` makes of the same request."""
        from nemo_desta.data.conversation import AUDIO_LOCATOR, render
        from nemo_desta.export.runtime import Prompt
        from nemo_desta.serving.settings import ServeConfig

        sound, question = request["messages"][-1]["content"]
        turns = [
            {"role": "system", "content": str(ServeConfig.system_prompt)},
            {"role": "user", "content": f"{AUDIO_LOCATOR}\n\n{question['text']}"},
        ]
        rendered = render(turns, self.tokenizer, self.layout, transcripts=[sound["transcript"]])  # type: ignore[arg-type]
        return Prompt(rendered.input_ids, rendered.audio_spans, [row])


def real_time_factor(checkpoint: str, clips: Sequence[Path], device: str) -> float:
    """Seconds that encoder and connector work for a second of sound, one clip at a time; of a clip over 30 s its first 30 s.

    Raises:
        ValueError: it is no checkpoint or training run, or there is no such device.
        ApiError: a clip cannot be decoded.
    """
    import torch

    from nemo_desta.data.dataset import Clip
    from nemo_desta.serving.audio import decode_clip
    from nemo_desta.serving.server import load_model
    from nemo_desta.serving.settings import ServeConfig

    model = load_model(ServeConfig(checkpoint=checkpoint, device=device)).eval()
    whole = [decode_clip(clip.read_bytes(), max_seconds=float("inf"), param=clip.name) for clip in clips]
    sounds = [torch.from_numpy(samples_T[: 30 * 16_000]) for samples_T in whole]  # what the encoder takes at once
    with torch.inference_mode():
        model.hear([Clip("", samples_T=sounds[0])])
        began = time.perf_counter()
        for sound in sounds:
            model.hear([Clip("", samples_T=sound)])
        if device != "cpu":
            torch.cuda.synchronize()
    return (time.perf_counter() - began) / (sum(map(len, sounds)) / 16_000)


def table(levels: Sequence[Level], notes: Sequence[str]) -> str:
    """Markdown."""
    head = "| target | concurrency | requests | failed | first token, median | first token, p95 | tokens/s | requests/s |\n|---|---|---|---|---|---|---|---|\n"
    rows = [
        f"| {level.target} | {level.concurrency} | {level.requests} | {level.failed} | {level.first_ms:.0f} ms | {level.first_p95_ms:.0f} ms "
        f"| {level.tokens_per_second:.1f} | {level.requests_per_second:.2f} |\n"
        for level in levels
    ]
    return "# Serving\n\n" + head + "".join(rows) + "\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    from nemo_desta.serving.errors import ApiError

    args = _arguments(arguments)
    try:
        targets = [(name, url.rstrip("/")) for name, _, url in (target.partition("=") for target in args.target)]
        clips = find_clips(args.clips, args.requests)
        requests = [body(clips[i % len(clips)], args.question, args.max_tokens, args.transcript) for i in range(args.requests)]
        ways: dict[str, Way] = {name: partial(measure, name, url, key=args.api_key) for name, url in targets}
        if args.bundle:
            ways["onnxruntime"] = partial(BundleTarget(Path(args.bundle), args.threads).measure, "onnxruntime")
        # Before the servers: a checkpoint that is none must not cost their measurement.
        factor = real_time_factor(args.checkpoint, clips[:16], args.device) if args.checkpoint else None
        levels, said = [], {}
        for name, way in ways.items():
            way(requests[:2], 1)
            for concurrency in args.concurrency:
                level, said[name, concurrency] = way(requests, concurrency)
                levels.append(level)
                sys.stderr.write(f"{level}\n")
        text = table(levels, _notes(args, clips, said, factor))
    except (ValueError, OSError, ApiError, httpx.HTTPError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(level.failed for level in levels) else 0


def _notes(args: argparse.Namespace, clips: Sequence[Path], said: dict[tuple[str, int], list[str | None]], factor: float | None) -> list[str]:
    seconds = [soundfile.info(clip).duration for clip in clips]
    machine = f"{platform.machine()}, {os.cpu_count()} cores" + (f"; {args.machine}" if args.machine else "")
    first = next(iter(said.values()))
    same = sum(all(answers[i] == first[i] for answers in said.values()) for i in range(len(first)))
    notes = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; client on {machine}; Python {platform.python_version()}",
        f"{len(clips)} clips of {min(seconds):.1f} to {max(seconds):.1f} s; question {args.question!r}; greedy, at most {args.max_tokens} tokens",
        f"{same} of {len(first)} answers are the same text in every row above",
    ]
    if factor is not None:
        notes.append(f"encoder and connector: {factor:.4f} s of work per second of sound ({args.device})")
    return notes


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", default=[], metavar="NAME=URL", help="a server: name for the table, address of its /v1; repeatable")
    parser.add_argument("--bundle", help="an exported bundle: adds a row for ONNX Runtime on it, in this process; needs --transcript")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime, for --bundle (default: its own choice)")
    parser.add_argument("--clips", nargs="+", required=True, help="sound files (wav, flac, mp3) or folders of them")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16], help="requests at the same time (default: 1 4 16)")
    parser.add_argument("--requests", type=int, default=32, help="requests at each concurrency (default: 32)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer (default: 64)")
    parser.add_argument("--question", default="Describe what you hear.", help="asked about every clip")
    parser.add_argument("--transcript", help="transcript to send with every clip ('' = none), so that no target transcribes; default: the server's own way")
    parser.add_argument("--api-key", default=os.environ.get("NEMO_DESTA_API_KEY"), help="default: $NEMO_DESTA_API_KEY")
    parser.add_argument("--checkpoint", help="also measure encoder and connector of this checkpoint or training run, in this process")
    parser.add_argument("--device", default="cpu", help="for --checkpoint (default: cpu)")
    parser.add_argument("--machine", help="a note about the servers' machine, for the table")
    parser.add_argument("--output", help="Markdown file to write")
    args = parser.parse_args(arguments)
    if not args.target and not args.bundle:
        parser.error("nothing to measure: name servers with --target NAME=URL, or a bundle with --bundle")
    if args.bundle and args.transcript is None:
        parser.error("--bundle has no Whisper decoder: give every target the same words with --transcript ('' = none)")
    for target in args.target:
        if not target.partition("=")[2].startswith(("http://", "https://")):
            parser.error(f"--target {target}: it must be NAME=http://host:port/v1")
    return args


if __name__ == "__main__":
    sys.exit(main())
