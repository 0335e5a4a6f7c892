"""Several engines write the rows that one writes, whoever of them is killed; what is wrong with the input costs that and nothing else."""

import contextlib
import errno
import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from nemo_desta.config import DestaConfig, OpenAIConfig, Precision, RayConfig
from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.data.supervision import CLIPS, self_generated
from nemo_desta.generation import journal as journal_module
from nemo_desta.generation import ray_job, review
from nemo_desta.generation.engines.base import Sampling
from nemo_desta.generation.engines.transformers import TransformersEngine
from nemo_desta.generation.parts import INPUTS, Part, gather, survey_file
from nemo_desta.generation.ray_job import generate_on_ray
from nemo_desta.generation.runner import generate_targets
from nemo_desta.generation.several import FURTHER, table_of_part
from nemo_desta.generation.worker import Job, Worker, raise_error
from nemo_desta.locking import exclusive
from nemo_desta.manifests.shar import SharOptions, write_shar
from nemo_desta.manifests.sources import Problems, Span, file_records, lines, spans
from nemo_desta.manifests.store import IndexedStore
from nemo_desta.models.training import load_targets
from tests.generation.clips import config, corpus, lively_llm
from tests.generation.completions_server import Handler, Server, address, completions_server
from tests.tiny import read_json, tone_cut
from tools import review_targets, target_quality

ROOT = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def local(llm: Path) -> TransformersEngine:
    return TransformersEngine(llm, Sampling(temperature=0.0, max_new_tokens=6), Precision.fp32, device="cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in three files, one of them compressed."""
    folder, cuts = tmp_path_factory.mktemp("shards"), list(corpus())
    for name, part in (("a.jsonl", cuts[:30]), ("b.jsonl.gz", cuts[30:60]), ("c.jsonl", cuts[60:])):
        write_cuts(folder / name, part)
    return folder


def job(root: Path, llm: Path, source: Path | None, **generation: Any) -> DestaConfig:
    settings = {"rows": 0, "prompts_per_cut": 2, "drop_rejected": False, "batch_tokens": 500, **generation}
    c = config(root, llm, **settings)
    c.ray = RayConfig(address="local", input=source and str(source), workers=2, shard_cuts=20, object_store_mib=100)
    return c


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, llm: Path, local: TransformersEngine) -> dict[str, Any]:
    """Targets of the same set by the runner without Ray."""
    root = tmp_path_factory.mktemp("one")
    c = job(root, llm, None)
    return supervisions(read_cuts(generate_targets(c, engine=local)))


def journalled(targets: Path) -> list[str]:
    """Row ids of all journals."""
    return [json.loads(line)["row_id"] for path in targets.glob("parts/*/rows*.jsonl") for line in path.read_text().splitlines()]


def supervisions(cuts: Any) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Cut id -> (response, all about it but which engine it was)."""

    def said(custom: dict[str, Any]) -> dict[str, Any]:
        engine = ("threads", "engine", "dtype", "device", "served_model", "prompt_as")
        return {**custom, "generator": {key: value for key, value in custom["generator"].items() if key not in engine}}

    return {cut.id: [(row.text, said(row.custom)) for row in self_generated(cut)] for cut in cuts}


def stored(targets: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Likewise of a finished store, whose rows must each have been answered once."""
    assert len(set(journalled(targets))) == len(journalled(targets)) == read_json(targets / "manifest.json")["generated"]
    store = IndexedStore(targets)
    return supervisions(store.cut(i) for i in range(store.description["lines"]))


# --- without Ray: parts and their worker -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, local: TransformersEngine) -> None:
    """One worker in this process in place of the actors."""

    def work(job: Job, parts: list[Part]) -> tuple[Any, float]:
        worker, total = Worker(job), ray_job.Work()
        for part in parts:
            result = worker.write(Part.loads(part.dumps()))
            if "error" in result:
                raise_error(result)
            total += ray_job.Work(**result["work"])
        return total, total.seconds

    monkeypatch.setattr("nemo_desta.generation.worker.make_engine", lambda config: local)
    monkeypatch.setattr(ray_job, "_connected", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(ray_job, "_survey", lambda files, size, whole: gather([survey_file(f, None if whole else size) for f in files], size))
    monkeypatch.setattr(ray_job, "_tables", lambda parts, pool, config: [table_of_part(part, pool, config) for part in parts])
    monkeypatch.setattr(ray_job, "_work", work)


SEVERAL = {"multi_audio_fraction": 0.5, "multi_turn_fraction": 0.2}
WAYS = {"each cut": {}, "dealt over the set": {"rows": 60}, "second turns": {"multi_turn_fraction": 0.5}, "several clips": SEVERAL}


@pytest.mark.parametrize("generation", [*WAYS.values(), {**SEVERAL, "rows": 60}], ids=[*WAYS, "several clips, dealt"])
def test_parts_make_the_rows_of_the_whole(tmp_path: Path, llm: Path, shards: Path, local: TransformersEngine, in_process: None, generation: Any) -> None:
    generate_targets(job(tmp_path / "one", llm, None, **generation), engine=local)
    targets = generate_on_ray(job(tmp_path / "many", llm, shards, **generation))
    assert [p.name for p in sorted(targets.glob("cuts.*.jsonl"))] == [f"cuts.00000{i}.jsonl" for i in range(5)]
    assert stored(targets) == supervisions(read_cuts(tmp_path / "one" / "targets" / "cuts_train.jsonl.gz"))
    whole, parts = read_json(tmp_path / "one" / "targets" / "manifest.json")["targets"], read_json(targets / "manifest.json")["targets"]
    assert parts == {**whole, "tokens": pytest.approx(whole["tokens"])}
    assert read_json(targets / "prompts.json") == read_json(tmp_path / "one" / "targets" / "prompts.json")
    further = targets / FURTHER
    assert further.exists() == ("multi_audio_fraction" in generation) == ("comparison" in parts["yield_by_kind"])
    report = read_json(targets / "throughput.json")
    assert report["rows"] == read_json(targets / "manifest.json")["generated"] and 0 < report["engine_utilisation"] <= 1
    assert report["extrapolation"]["hours_one_worker"] == pytest.approx(8 * report["extrapolation"]["hours_8_workers"], rel=0.1, abs=0.5)


def test_the_quality_tools_look_at_a_run_in_parts(
    tmp_path: Path, llm: Path, shards: Path, local: TransformersEngine, in_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    c = job(tmp_path, llm, shards, multi_audio_fraction=0.3, multi_turn_fraction=0.5)
    c.trainer.max_steps = 1
    targets = generate_on_ray(c)
    asked = []
    monkeypatch.setattr(target_quality, "make_engine", lambda c: asked.append(c.generation.temperature) or local)
    assert target_quality.main(["stats", str(tmp_path)]) == 0 and "worst yields" in capsys.readouterr().out
    assert target_quality.main(["consistency", str(tmp_path), "--rows", "12", "--samples", "2"]) == 0 and asked == [0.7]
    known = set(journalled(targets))
    assert {row["row_id"] for row in read_json(targets / "consistency.json")["rows"]} <= known and len(read_json(targets / "consistency.json")["rows"]) == 12
    assert review_targets.main(["build", str(tmp_path), "--count", "30"]) == 0
    items = read_json(targets / "review" / "items.json")
    assert len(items) >= 29 and "· comparison ·" in (targets / "review" / "index.html").read_text()
    assert set(items) <= {row.id for path in targets.glob("cuts.*.jsonl") for cut in read_cuts(path) for row in self_generated(cut)}
    first = items[0]
    review.add_verdict(targets / "review.jsonl", first, "reject")
    generate_on_ray(job(tmp_path, llm, shards, multi_audio_fraction=0.3, multi_turn_fraction=0.5))
    assert any(
        json.loads(line)["row_id"] == first for path in targets.glob("parts/*/rejected.jsonl") for line in path.read_text().splitlines() if "review" in line
    )
    (targets / "store.json").unlink()
    assert review_targets.main(["build", str(tmp_path)]) == 1 and "run examples/generate_targets.py first" in capsys.readouterr().err


def test_damage_costs_what_is_damaged_and_is_listed(tmp_path: Path, llm: Path, shards: Path, in_process: None) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    a, b = (shards / "a.jsonl").read_bytes(), gzip.decompress((shards / "b.jsonl.gz").read_bytes())
    torn = a.splitlines(keepends=True)
    (broken / "a.jsonl").write_bytes(b"".join([*torn[:3], b'{"id": 7}\n', *torn[4:-1], torn[-1][:40]]))
    (broken / "b.jsonl.gz").write_bytes(gzip.compress(b)[:-400])
    (broken / "c.jsonl").write_bytes(b"no json\n" * 21)
    targets = generate_on_ray(job(tmp_path / "run", llm, broken))
    inputs = read_json(targets / INPUTS)
    found = [file["cuts"] for file in inputs["files"]]
    assert found[0] == 28 and 0 < found[1] < 30 and found[2] == 0
    assert inputs["problems"]["counts"] == {"damaged line": 23, "damaged file": 1} and any("line 4" in s for s in inputs["problems"]["listed"])
    assert len(stored(targets)) == sum(found)
    assert read_json(targets / "manifest.json")["input_files"]["problems"]["counts"]["damaged line"] == 23


def test_ids_that_stand_twice_are_named_before_anything_is_asked(tmp_path: Path, llm: Path, in_process: None) -> None:
    cuts = list(corpus())
    (tmp_path / "in").mkdir()
    write_cuts(tmp_path / "in" / "x.jsonl", cuts[:5])
    write_cuts(tmp_path / "in" / "y.jsonl", cuts[4:8])
    with pytest.raises(ValueError, match=rf"1 cut ids stand twice.*'{cuts[4].id}' in x.jsonl and y.jsonl.*dedup"):
        generate_on_ray(job(tmp_path / "run", llm, tmp_path / "in"))
    write_cuts(tmp_path / "in" / "y.jsonl", [cuts[6], cuts[6]])
    with pytest.raises(ValueError, match=r"1 cut ids stand twice.*within one file"):
        generate_on_ray(job(tmp_path / "run", llm, tmp_path / "in"))
    assert not list((tmp_path / "run" / "targets").glob("parts/*"))


def test_a_full_disk_is_a_sentence_and_the_rerun_goes_on(
    tmp_path: Path, llm: Path, shards: Path, in_process: None, one_process: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all, calls = journal_module._write_all, []

    def full(descriptor: int, data: bytes) -> None:
        calls.append(1)
        if len(calls) == 6:
            write_all(descriptor, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(descriptor, data)

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(OSError, match=r"cannot write .*rows.jsonl \(No space left.*batches are safe"):
        generate_on_ray(job(tmp_path, llm, shards))
    before = {path: path.read_bytes() for path in (tmp_path / "targets").glob("parts/*/rows.jsonl")}
    targets = generate_on_ray(job(tmp_path, llm, shards))
    assert stored(targets) == one_process
    assert before and all(path.read_bytes().startswith(data[: data.rfind(b"\n") + 1]) for path, data in before.items())


def test_shar_shards_stay_with_their_audio(tmp_path: Path, llm: Path, in_process: None, caplog: pytest.LogCaptureFixture) -> None:
    cuts = []
    for i in range(6):
        cut = tone_cut(tmp_path / "audio", i, 0.5)
        cut.supervisions[0].custom = {"sound": "a tone", "sound_class": "tone"}
        cuts.append(cut)
    write_cuts(tmp_path / "tones.jsonl", cuts)
    write_shar(tmp_path / "tones.jsonl", tmp_path / "shar", SharOptions(shard_size=3))
    tars = sorted((tmp_path / "shar" / "shards").glob("recording.*.tar"))
    c = job(tmp_path / "run", llm, tmp_path / "shar", drop_rejected=True)
    c.ray.shard_cuts = 2
    with pytest.raises(ValueError, match="none of the 12 answers passed"):  # a random model
        generate_on_ray(c)
    assert [len(read_cuts(p)) for p in sorted((tmp_path / "run" / "targets").glob("cuts.*.jsonl"))] == [3, 3], "cuts without a target stay too"
    c.generation.drop_rejected = False
    targets = generate_on_ray(c)
    assert "shar is a Shar folder: its targets cannot be trained on as they are" in caplog.text
    with pytest.raises(ValueError, match=rf"data.manifest={targets}: .*tar files of a Shar folder"):
        load_targets(tmp_path, str(targets))
    fields = {"cuts": sorted(map(str, targets.glob("cuts.*.jsonl"))), "recording": list(map(str, tars))}
    together = list(CutSet.from_shar(fields=fields))
    assert len(fields["cuts"]) == 2 and [cut.id for cut in together] == [cut.id for cut in cuts]
    assert all(cut.load_audio().shape[1] == 8000 and len(self_generated(cut)) == 2 for cut in together)
    with pytest.raises(ValueError, match=r"multi_audio_fraction: .* cannot be heard from .*shar, whose audio lies in tar files: give the cuts from before"):
        generate_on_ray(job(tmp_path / "several", llm, tmp_path / "shar", multi_audio_fraction=0.5))
    tars[0].write_bytes(tars[0].read_bytes()[:700])  # the text is whole: targets need no audio
    c = job(tmp_path / "again", llm, tmp_path / "shar")
    assert stored(generate_on_ray(c)) == stored(targets)


def test_a_second_run_settings_and_missing_things_are_refused(tmp_path: Path, llm: Path, shards: Path, in_process: None) -> None:
    c = job(tmp_path, llm, shards)
    with exclusive(tmp_path / "targets"), pytest.raises(ValueError, match="targets is being written by process"):
        generate_on_ray(c)
    targets = generate_on_ray(c)
    before = {path: path.stat().st_mtime_ns for path in targets.rglob("*") if path.name != ".lock"}
    assert generate_on_ray(c) == targets and before == {path: path.stat().st_mtime_ns for path in targets.rglob("*") if path.name != ".lock"}
    (targets / "cuts.000002.jsonl").write_bytes(b"")  # damaged: made again from its journal
    generate_on_ray(c)
    assert len(stored(targets)) == 70
    c.generation.max_new_tokens = 7
    with pytest.raises(ValueError, match="max_new_tokens was 6, is 7"):
        generate_on_ray(c)
    with pytest.raises(ValueError, match=r"multi_audio_fraction=1.5 is outside"):
        generate_on_ray(job(tmp_path / "x", llm, shards, multi_audio_fraction=1.5))
    with pytest.raises(ValueError, match=r"ray.input=.*set ray.address"):
        generate_targets(job(tmp_path, llm, shards))
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: set ray.input"):
        generate_on_ray(job(tmp_path / "x", llm, tmp_path / "nowhere"))
    for name, value in (("workers", 0), ("shard_cuts", 0), ("gpus_per_worker", -1.0)):
        wrong = job(tmp_path / "x", llm, shards)
        setattr(wrong.ray, name, value)
        with pytest.raises(ValueError, match=f"ray.{name}={value}"):
            generate_on_ray(wrong)


def test_without_ray_it_is_a_sentence(tmp_path: Path, llm: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray.*pip install -e '\.\[ray\]'"):
        generate_on_ray(job(tmp_path, llm, shards))


def test_spans_cut_a_file_anywhere(tmp_path: Path, shards: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz"):
        file = shards / name
        for count in (1, 7, 30, 31, None):
            found = spans(file, count)
            assert [line for span in found for line in span.lines(file)] == list(lines(file)) and (found[0].start is None) == (file.suffix == ".gz")
    records = [r["id"] for span in spans(shards / "a.jsonl", 7) for r in file_records(shards / "a.jsonl", Problems(), span)]
    assert records == [cut.id for cut in list(corpus())[:30]]
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert spans(tmp_path / "empty.jsonl", 7) == [] == spans(tmp_path / "empty.jsonl", None)
    assert spans(shards / "a.jsonl", 30) == [Span(0, 30, 0)]


# --- with Ray ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A small Ray of this machine, for all tests below."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=0, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield
    ray.shutdown()


@needs_ray
def test_two_workers_write_what_one_process_writes(tmp_path: Path, llm: Path, shards: Path, cluster: None, one_process: dict[str, Any]) -> None:
    targets = generate_on_ray(job(tmp_path, llm, shards))
    assert stored(targets) == one_process
    pids = {(part / ".lock").read_text() for part in targets.glob("parts/*")}
    assert len(pids) == 2, "both workers had a part"
    report = read_json(targets / "throughput.json")
    assert report["workers"] == 2 and report["rows"] == read_json(targets / "manifest.json")["generated"]
    wrong = job(tmp_path / "x", llm, shards)
    wrong.ray.gpus_per_worker = 1.0
    with pytest.raises(ValueError, match=r"ray.workers=2 with 1 GPUs each do not fit into a cluster with 0 GPUs"):
        generate_on_ray(wrong)


class Gate:
    """Lets some requests of a server through, then none until it is opened."""

    def __init__(self, requests: int) -> None:
        self.left, self.reached, self.opened, self.lock = requests, threading.Event(), threading.Event(), threading.Lock()

    def __call__(self, handler: Handler, request: dict[str, Any], before: int) -> bool:
        with self.lock:
            self.left -= 1
            shut = self.left < 0
        if shut:
            self.reached.set()
            self.opened.wait(200)
        return False


def served(c: DestaConfig, server: Server) -> DestaConfig:
    c.generation.engine = "openai"
    c.generation.openai = OpenAIConfig(base_url=address(server), concurrency=2, backoff=0.05)
    return c


def asked_again(server: Server) -> int:
    return sum(server.times.values()) - len(server.times)


@contextlib.contextmanager
def a_worker_killed(targets: Path, gate: Gate) -> Iterator[list[int]]:
    """Kill one of those at work when the gate is reached; its process id."""
    killed: list[int] = []

    def kill() -> None:
        if gate.reached.wait(200):
            busy = [part for part in sorted((targets / "parts").iterdir()) if not (part / "manifest.json").exists()]
            killed.append(int((busy[0] / ".lock").read_text().split()[1]))
            os.kill(killed[0], signal.SIGKILL)
            gate.opened.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        killer.join()


@needs_ray
def test_a_killed_worker_costs_its_unfinished_batch(tmp_path: Path, llm: Path, shards: Path, cluster: None, local: TransformersEngine) -> None:
    """Rows about one clip and about several."""
    several = {"multi_audio_fraction": 0.2}
    expected = supervisions(read_cuts(generate_targets(job(tmp_path / "one", llm, None, **several), engine=local)))
    gate = Gate(30)
    with completions_server(local, gate) as server, a_worker_killed(tmp_path / "targets", gate) as killed:
        targets = generate_on_ray(served(job(tmp_path, llm, shards, **several), server))
    assert killed and str(killed[0]) not in " ".join((part / ".lock").read_text() for part in targets.glob("parts/*"))
    assert stored(targets) == expected and sum(bool(custom.get(CLIPS)) for rows in expected.values() for _, custom in rows) == 28
    assert asked_again(server) <= 10, "two batches were in flight, of five rows at most"


@needs_ray
def test_a_worker_that_keeps_dying_stops_the_run(tmp_path: Path, llm: Path, shards: Path, cluster: None, local: TransformersEngine) -> None:
    gate = Gate(10)
    c = job(tmp_path, llm, shards)
    c.ray.max_restarts, c.ray.workers = 0, 1
    with (
        completions_server(local, gate) as server,
        a_worker_killed(tmp_path / "targets", gate),
        pytest.raises(OSError, match=r"a worker died more often than ray.max_restarts=0 allows; what is written is safe"),
    ):
        generate_on_ray(served(c, server))
    assert any(path.stat().st_size for path in (tmp_path / "targets").glob("parts/*/rows.jsonl"))


@needs_ray
def test_a_killed_driver_goes_on(tmp_path: Path, llm: Path, shards: Path, cluster: None, local: TransformersEngine, one_process: dict[str, Any]) -> None:
    """The documented command, killed in the middle; what it began ends here on another Ray."""
    gate = Gate(30)
    with completions_server(local, gate) as server:
        settings = {
            "run_dir": tmp_path,
            "model.llm": llm,
            "model.llm_precision": "fp32",
            "generation.openai.base_url": address(server),
            "generation.openai.concurrency": 2,
            "ray.input": shards,
            **{f"generation.{key}": getattr(job(tmp_path, llm, shards).generation, key) for key in GIVEN},
            **{f"ray.{key}": value for key, value in (("workers", 2), ("shard_cuts", 20), ("object_store_mib", 100))},
        }
        command = [sys.executable, "examples/generate_targets.py", "--config-name=generate", "engine=openai", "ray.address=local"]
        command += [f"{key}={json.dumps(value) if isinstance(value, str | bool) else value}" for key, value in settings.items()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(tmp_path / "log", "w") as log:
            driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        while not gate.reached.wait(0.2):
            assert driver.poll() is None, (tmp_path / "log").read_text()[-3000:]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        first = {path: path.read_bytes() for path in (tmp_path / "targets").glob("parts/*/rows.jsonl")}
        assert any(first.values()) and not (tmp_path / "targets" / "store.json").exists()
        time.sleep(0.5)
        gate.opened.set()
        targets = generate_on_ray(served(job(tmp_path, llm, shards), server))
    assert all(path.read_bytes().startswith(data) for path, data in first.items())
    assert stored(targets) == one_process
    assert asked_again(server) <= 20, "of each of two workers two batches were in flight"


GIVEN = ("rows", "prompts_per_cut", "temperature", "max_new_tokens", "batch_tokens", "drop_rejected", "system_prompt")
