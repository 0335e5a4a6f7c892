"""How fast the data paths are on this machine: prints a table and writes JSON.

    python tools/bench_data.py --quick                       # small numbers, about a minute
    python tools/bench_data.py --output bench.json           # 5,000,000 rows: 14 GB of temporary files, some minutes
    python tools/bench_data.py --only import,open,resume     # some of the measurements

Measures, on synthetic rows and noise clips made for the purpose and removed afterwards:

* import      rows/s of import-aqa5m (one process, no audio is read), and the peak memory
* probe       audio headers/s that the duration cache reads, and known durations/s that it looks up
* open        seconds from opening the indexed store of these rows to the first cut in the hand
* resume      seconds to the first batch of a sampler that starts in the middle of an epoch, and that the batch is the one an unbroken run has there
* dataloader  clips/s that a DataLoader with two workers decodes, from loose FLAC files and from Shar shards
* tagging     clips/s of each tagger that runs here (measurements, Silero, YAMNet, Whisper), one process
* generation  rows/s of each engine that runs here: transformers; openai against a loopback server whose replies cost nothing, which is what the client itself
              can do; vllm where it is installed

"cpu" rates divide by the processor time of the process: what one core does, also when other jobs share the machine. "wall" rates divide by the clock.
"""

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nemo_desta.jsonl import text_lines

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout without installation

TEXT = "the a speaker sounds calm and clear with an accent from near there is music in the background woman man young voice happy slow rate audio quiet"
WORDS = TEXT.split()
SECONDS = 5.0  # of a clip
RATE = 16_000
ROWS, QUICK_ROWS = 5_000_000, 20_000
CLIPS, QUICK_CLIPS = 1_000, 60
ANSWERS, QUICK_ANSWERS = 200, 16  # rows of an engine
TAGGERS = ("measured", "voice", "events", "transcript")
LLM = "asset://smollm2-135m-instruct"
MIB = 1 << 20


def write_rows(path: Path, count: int) -> None:
    """Rows in the released form, about 1.2 kB each."""
    rng = random.Random(0)
    responses = [" ".join(rng.choices(WORDS, k=70)) for _ in range(500)]
    system = json.dumps({"role": "system", "content": "Focus on the audio clips and instructions. The clips stand between <start_audio> and <end_audio> tags."})
    with open(path, "w", encoding="utf-8", buffering=4 * MIB) as f:
        for i in range(count):
            audio, text, end = f"LibriTTS_R/{i % 900}/{i:09d}.wav", responses[i % 499][:60], i % 25 + 5
            prompt = f"What is the speaker's emotion, and how do you know? ({i % 4000})"
            named = f"Gender: {'Male' if i % 2 else 'Female'}, Speaker: S{i % 1000}, Pitch: moderate pitch, Emotion: happy, Duration: {end}s"
            seed = f"[00:00-00:{end:02d}] {text} ({named})"
            clip = f'{{"audio": "{audio}", "text": "{text}"}}'
            user = f'{{"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\\n\\n{prompt}", "audios": [{clip}]}}'
            fields = f'"id": "{audio}", "dataset": "LibriTTS-R", "seed_description": "{seed}", "prompt": "{prompt}", "response": "{responses[i % 500]}"'
            f.write(f'{{{fields}, "messages": [{system}, {user}]}}\n')


def write_clips(folder: Path, count: int) -> Path:
    """Noise clips as FLAC, and a manifest of them with one row each."""
    import numpy as np
    import soundfile as sf

    from nemo_desta.manifests.records import encode

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    own = {"role": "self_generated", "prompt": "What?", "messages": [{"role": "user", "content": "<|AUDIO|>\n\nWhat?"}], "generator": {"model": "none"}}
    lines = []
    for i in range(count):
        sf.write(folder / f"{i}.flac", 0.1 * rng.standard_normal(round(SECONDS * RATE)), RATE)
        span = {"recording_id": f"c{i}", "start": 0.0, "duration": SECONDS, "channel": 0}
        source = {"type": "file", "channels": [0], "source": str(folder / f"{i}.flac")}
        recording = {"id": f"c{i}", "sources": [source], "sampling_rate": RATE, "num_samples": round(SECONDS * RATE), "duration": SECONDS}
        supervisions = [{"id": f"s{i}", **span, "text": "noise"}, {"id": f"r{i}", **span, "text": "It is noise.", "custom": own}]
        custom = {"dataset": "noise", "domain": "sound", "split": "train", "license": "CC0-1.0", "seed_description": "[00:00-00:05] (Noise)"}
        cut = {"id": f"c{i}", "start": 0.0, "duration": SECONDS, "channel": 0, "supervisions": supervisions, "recording": recording, "custom": custom}
        lines.append(encode({**cut, "type": "MonoCut"}))
    manifest = folder.parent / "clips.jsonl"
    manifest.write_bytes(b"\n".join(lines) + b"\n")
    return manifest


class Clock:
    """Processor and clock time of a block."""

    def __enter__(self) -> "Clock":
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall

    def rates(self, count: int, what: str) -> dict[str, float]:
        """``<what>/s`` by both."""
        return {f"{what}_per_s_cpu": round(count / self.cpu, 1), f"{what}_per_s_wall": round(count / self.wall, 1), "seconds_wall": round(self.wall, 2)}


def bench_import(work: Path, rows: int) -> dict[str, Any]:
    """Import rate and peak memory; leaves the store for the next measurements."""
    from nemo_desta.manifests.aqa5m_import import ImportOptions, import_aqa5m

    source = work / "speech.0.jsonl"
    write_rows(source, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with Clock() as clock:
        done = import_aqa5m([source], work / "store", ImportOptions("/audio", durations="seed"))
    assert done["rows"] == rows
    size = source.stat().st_size
    source.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, **clock.rates(rows, "rows"), "bytes_a_row": round(size / rows), "memory_before_mib": round(before), "peak_memory_mib": round(peak)}


def bench_probe(work: Path, clips: int) -> dict[str, Any]:
    """Reading headers, and looking up what was read."""
    from nemo_desta.manifests.durations import DurationCache

    names = [f"{i}.flac" for i in range(clips)]
    found: dict[str, Any] = {"files": clips}
    for what in ("headers", "known"):
        with DurationCache(work / "clips", work / "durations.sqlite") as cache, Clock() as clock:
            assert all(info.samples for info in cache.lookup(names).values())
        found |= {f"{what}_per_s_wall": round(clips / clock.wall, 1)}
    return found


def bench_open(work: Path, rows: int) -> dict[str, Any]:
    """From nothing to the first cut, in this process with its imports done."""
    from nemo_desta.manifests.store import IndexedStore

    IndexedStore(work / "store").cut(0)
    with Clock() as clock:
        cut = IndexedStore(work / "store").cut(rows // 3)
    assert cut.duration > 0
    return {"rows": rows, "seconds_wall": round(clock.wall, 4)}


def bench_resume(work: Path, rows: int) -> dict[str, Any]:
    """From nothing to the cuts of a batch in the middle of the third epoch."""
    from nemo_desta.data.indexed import IndexedStepSampler
    from nemo_desta.manifests.store import IndexedStore

    options: dict[str, Any] = {"batch_rows": 96, "num_buckets": 8, "seed": 0}
    steps = rows // options["batch_rows"]
    step = 2 * steps + random.Random().randrange(steps)
    with Clock() as clock:
        store = IndexedStore(work / "store")
        first = next(iter(IndexedStepSampler(store, start_step=step, **options)))
        cuts = [store.cut(line) for line in first.lines]
    unbroken = IndexedStepSampler(store, start_step=max(0, step - 200), **options)  # comes to the same step through the blocks before it
    assert next(s for i, s in enumerate(unbroken, max(0, step - 200)) if i == step) == first and len(cuts) == 96
    return {"rows": rows, "step": step, "of_steps_an_epoch": steps, "seconds_wall": round(clock.wall, 4), "same_as_unbroken": True}


class Decode:
    """A dataset in Lhotse's manner that decodes the audio of a batch of cuts."""

    def __getitem__(self, cuts: Any) -> int:
        return sum(cut.load_audio().shape[-1] > 0 for cut in cuts)


def bench_dataloader(work: Path, clips: int, manifest: Path) -> dict[str, Any]:
    """Clips/s with two workers, decoded, batches of 16."""
    from lhotse import CutSet
    from lhotse.dataset import DynamicCutSampler, IterableDatasetWrapper
    from torch.utils.data import DataLoader

    from nemo_desta.manifests.shar import SharOptions, write_shar

    write_shar(manifest, work / "shar", SharOptions(shard_size=max(1, clips // 8)))

    def sampler(cuts: CutSet) -> Any:
        return DynamicCutSampler(cuts, max_cuts=16, world_size=1, rank=0)

    loose: Any = DataLoader(Decode(), batch_size=None, sampler=sampler(CutSet.from_jsonl_lazy(manifest)), num_workers=2)  # type: ignore[arg-type]
    shards = CutSet.from_shar(in_dir=work / "shar" / "shards", split_for_dataloading=True)
    shar: Any = DataLoader(IterableDatasetWrapper(Decode(), sampler(shards)), batch_size=None, num_workers=2)  # type: ignore[arg-type]
    found: dict[str, Any] = {"clips": clips, "seconds_a_clip": SECONDS, "workers": 2}
    for name, loader in (("loose_flac", loose), ("shar_flac", shar)):
        found[f"{name}_clips_per_s_wall"] = round(_read(loader, clips), 1)
    return found


def _read(loader: Any, clips: int) -> float:
    batches: Iterator[int] = iter(loader)
    count = next(batches)  # the workers are up
    with Clock() as clock:
        rest = sum(batches)
    assert count + rest == clips, f"{count + rest} of {clips} clips"
    return rest / clock.wall


def bench_tagging(work: Path, clips: int, taggers: Sequence[str] = TAGGERS) -> dict[str, Any]:
    """Each tagger alone on the same clips, its model loaded before."""
    from nemo_desta.assets import AssetError
    from nemo_desta.manifests.tagging import tag_lines
    from tools.tag_cuts import build

    lines = text_lines(work / "clips.jsonl")
    found: dict[str, Any] = {"clips": clips, "seconds_a_clip": SECONDS}
    for name in taggers:
        some = lines if name != "transcript" else lines[: max(16, clips // 10)]  # Whisper is the slow one
        try:
            tagger = build(name)
        except (AssetError, OSError) as error:
            found[name] = f"not measured: {error}"
            continue
        tag_lines(lines[:2], [tagger])  # what the first call sets up
        with Clock() as clock:
            for start in range(0, len(some), 16):
                tag_lines(some[start : start + 16], [tagger])
        found |= {f"{name}_{key}": value for key, value in clock.rates(len(some), "clips").items() if key != "seconds_wall"}
    return found


class CannedReplies(BaseHTTPRequestHandler):
    """The completions protocol without a model behind it."""

    protocol_version = "HTTP/1.1"

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        """The list of models."""
        self._send({"data": [{"id": "canned"}]})

    def do_POST(self) -> None:
        """An answer of 25 tokens."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send({"choices": [{"text": " ".join(WORDS[:24]), "finish_reason": "stop"}], "usage": {"completion_tokens": 25}})


def bench_generation(rows: int, llm: str) -> dict[str, Any]:
    """The same rows through each engine, loaded before; greedy, at most 32 tokens an answer."""
    import importlib.util
    from dataclasses import replace

    from nemo_desta.assets import AssetError, resolve_model
    from nemo_desta.config import DestaConfig, GenerationConfig, ModelConfig, OpenAIConfig
    from nemo_desta.generation.engines import make_engine

    config = DestaConfig(name="bench", run_dir="none", model=ModelConfig(llm=llm, encoder="none"))
    config.generation = GenerationConfig(temperature=0.0, max_new_tokens=32)
    found: dict[str, Any] = {"rows": rows, "llm": llm}
    try:
        resolve_model(llm)
    except AssetError as error:
        return found | {"not measured": str(error)}
    found["transformers"] = _engine_rates(make_engine(config), rows)
    server = ThreadingHTTPServer(("127.0.0.1", 0), CannedReplies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = OpenAIConfig(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", concurrency=16)
    config.generation = replace(config.generation, engine="openai", openai=address)
    found["openai_canned_replies"] = _engine_rates(make_engine(config), rows)
    server.shutdown()
    if importlib.util.find_spec("vllm") is None:
        return found | {"vllm": "not installed here"}
    config.generation = replace(config.generation, engine="vllm")
    config.generation.vllm.max_model_len = 1024
    return found | {"vllm": _engine_rates(make_engine(config), rows)}


def _engine_rates(engine: Any, rows: int) -> dict[str, Any]:
    from nemo_desta.data.conversation import render_text
    from nemo_desta.generation.plan import make_messages

    messages = make_messages("What is the gender of the speaker?", "Focus on the audio clips and instructions. Answer in English in one short sentence.")
    seeds = [f"[00:00-00:05] take number {i} (Gender: {'male' if i % 2 else 'female'}, Pitch: high, Accent: Scottish)" for i in range(rows)]
    prompts = [render_text(messages, engine.tokenizer, [seed]) for seed in seeds]
    try:
        engine.generate(prompts[:2], ["warm", "up"])
        with Clock() as clock:
            answers = [a for start in range(0, rows, 64) for a in engine.generate(prompts[start : start + 64], seeds[start : start + 64])]
    finally:
        engine.close()
    tokens = sum(answer.num_tokens for answer in answers)
    prompt_tokens = round(sum(engine.count_tokens(prompts)) / rows)
    return {**clock.rates(rows, "rows"), "output_tokens_per_s_wall": round(tokens / clock.wall, 1), "prompt_tokens_a_row": prompt_tokens}


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    import psutil

    from nemo_desta.provenance import code_revision, library_versions

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "versions": library_versions(),
        "code": code_revision(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows and {QUICK_CLIPS} clips")
    parser.add_argument("--rows", type=int, help=f"rows of the manifest (default: {ROWS:,})")
    parser.add_argument("--clips", type=int, help=f"audio clips (default: {CLIPS:,})")
    parser.add_argument("--answers", type=int, help=f"rows for each engine (default: {ANSWERS:,})")
    parser.add_argument("--llm", default=LLM, help="backbone of the generation (default: %(default)s)")
    parser.add_argument("--only", default="import,open,resume,probe,dataloader,tagging,generation", help="measurements, with commas")
    parser.add_argument("--output", type=Path, help="write the figures as JSON here")
    parser.add_argument("--work-dir", type=Path, help="where temporary files go (default: the system's folder)")
    options = parser.parse_args()
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    clips = options.clips or (QUICK_CLIPS if options.quick else CLIPS)
    answers = options.answers or (QUICK_ANSWERS if options.quick else ANSWERS)
    wanted = [name.strip() for name in options.only.split(",")]
    if options.rows is not None and options.rows < 1_000:
        parser.error(f"--rows {options.rows}: at least 1,000, so that a batch can be taken from the middle of an epoch")
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        work = Path(folder)
        measured: dict[str, Callable[[], dict[str, Any]]] = {
            "import": lambda: bench_import(work, rows),
            "open": lambda: bench_open(work, rows),
            "resume": lambda: bench_resume(work, rows),
            "probe": lambda: bench_probe(work, clips),
            "dataloader": lambda: bench_dataloader(work, clips, work / "clips.jsonl"),
            "tagging": lambda: bench_tagging(work, clips),
            "generation": lambda: bench_generation(answers, options.llm),
        }
        unknown = sorted(set(wanted) - set(measured))
        if unknown or ({"open", "resume"} & set(wanted) and "import" not in wanted):
            parser.error(f"--only {options.only}: the measurements are {', '.join(measured)}; open and resume need import")
        if {"probe", "dataloader", "tagging"} & set(wanted):
            write_clips(work / "clips", clips)
        report: dict[str, Any] = {"machine": machine(), **{name: measure() for name, measure in measured.items() if name in wanted}}
    for name, figures in report.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key}: {_shown(value)}")
    if options.output:
        from nemo_desta.provenance import write_json_atomic

        write_json_atomic(options.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
