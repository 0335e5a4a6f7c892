"""Target generation for large sets: Ray Data hands the parts of the input to a pool of actors, each with an engine of its own.

What a part is asked, answered, filtered and written like is the business of `runner`, which does the same for a whole run in one process. Below ``targets``:

::

    inputs.json                 what the input files are (see `parts`)
    plan.json                   what the run belongs to
    further_clips.jsonl         clips that rows about several clips name besides their own (see `several`), where there are such rows
    parts/000000/               journal, rejected rows, statistics and manifest.json of a part; the manifest is written last: the part is done
    cuts.000000.jsonl           its cuts with their targets, with .idx and .len
    store.json                  written when all parts are done: the folder is an indexed store then
    manifest.json               counts and origin of the whole; throughput.json: rates; prompts.json: lengths, refusals and yields by prompt

A worker that dies costs the batches in work (two with the engine openai, else one): Ray starts another, which goes on with the part's journal. Idle workers get
the next part whoever wrote the last one, so that a slow machine does not hold up the others. Nothing but the driver's lock and the files themselves carries
state between runs.
"""

import contextlib
import hashlib
import importlib.util
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nemo_desta import provenance
from nemo_desta.config import DestaConfig, GenerationConfig, RayConfig
from nemo_desta.generation.answering import RowsProgress, Work
from nemo_desta.generation.checks import check_settings, check_worker
from nemo_desta.generation.parts import INPUTS, Inputs, Part, deal, gather, input_files, is_shar, load_inputs, survey_file
from nemo_desta.generation.paths import Paths
from nemo_desta.generation.plan import make_plan
from nemo_desta.generation.quality import merged_statistics
from nemo_desta.generation.runner import PROMPTS, THROUGHPUT, claim, done_key, nothing_kept, pool_of, read_json, run_identity
from nemo_desta.generation.several import deal_comparisons, table_of_part
from nemo_desta.generation.statistics import merged
from nemo_desta.generation.throughput import log_throughput, throughput
from nemo_desta.generation.worker import Job, Worker, raise_error
from nemo_desta.locking import exclusive
from nemo_desta.manifests.store import DESCRIPTION
from nemo_desta.manifests.store_writer import describe
from nemo_desta.seed.prompts import PromptPool

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two looks at the number of rows


def generate_on_ray(config: DestaConfig, pool: PromptPool | None = None) -> Path:
    """Write the targets of a set with several engines, or go on where an earlier run stopped.

    Args:
        config: of the run; ``ray``, ``generation``, ``model.llm`` and ``model.llm_precision`` matter.
        pool: prompts; default: those of ``generation.prompt_files``.

    Returns:
        The folder ``targets``, an indexed store of cuts (``data.manifest`` of a training, unless the input was Shar, whose cuts name no audio).

    Raises:
        FileNotFoundError: no input.
        ValueError: a setting, ids that stand twice, targets of other settings, another process works there, or nothing survived the filters.
        OSError: no cluster, a full disk, a server that does not answer, or a worker that keeps dying; what is written is safe.
    """
    _check(config.ray)
    check_settings(config.generation)
    check_worker(config.generation, config.ray)
    paths, pool = Paths(Path(config.run_dir).absolute()), pool_of(config, pool)
    source = Path(config.ray.input) if config.ray.input else paths.corpus
    files = input_files(source)
    if config.generation.multi_audio_fraction and is_shar(source):
        advice = "give the cuts from before tools/manifests.py shard, and shard the result"
        raise ValueError(f"generation.multi_audio_fraction: further clips of a row cannot be heard from {source}, whose audio lies in tar files: {advice}")
    if is_shar(source):
        logger.warning("%s is a Shar folder: its targets cannot be trained on as they are (docs/targets.md, From a Shar folder)", source)
    with exclusive(paths.targets):
        inputs = load_inputs(paths.targets / INPUTS, files, config.ray.shard_cuts)
        if inputs and _complete(paths, _run_key(config, paths, pool, inputs)):
            logger.info("targets in %s are complete: nothing to do", paths.targets)
            return paths.targets
        with _connected(config):
            if inputs is None:
                inputs = _survey(files, config.ray.shard_cuts, whole=is_shar(source))
                provenance.write_json_atomic(paths.targets / INPUTS, asdict(inputs))
            claim(paths.targets, {**run_identity(config), "inputs": inputs.sha256, "ray.shard_cuts": config.ray.shard_cuts})
            work = _work(Job(config, pool, inputs.values, is_shar(source)), _parts(config, paths, inputs, pool))
        _finish(config, paths, pool, inputs, work)
    return paths.targets


def _check(config: RayConfig) -> None:
    for name in ("workers", "shard_cuts", "cpus_per_worker"):
        if getattr(config, name) <= 0:
            raise ValueError(f"ray.{name}={getattr(config, name)}: it must be above 0")
    if config.gpus_per_worker < 0 or config.max_restarts < 0:
        raise ValueError(f"ray.gpus_per_worker={config.gpus_per_worker} and ray.max_restarts={config.max_restarts} must not be negative")


# --- Ray ---------------------------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(whole: DestaConfig) -> Iterator[None]:
    """Ray for the run: a connection that the process has already, a cluster, or one of our own on this machine.

    Raises:
        ValueError: Ray is not installed, the cluster is too small, its engines would all take one GPU, or its workers lack vLLM.
        ConnectionError: no cluster.
    """
    config = whole.ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"ray.address={config.address} needs Ray ({error}): pip install -e '.[ray]', or leave ray.address out") from error
    own = not ray.is_initialized()
    if own:
        local = {"num_cpus": max(1, math.ceil(config.workers * config.cpus_per_worker)), "object_store_memory": config.object_store_mib << 20}
        settings = {**local, "include_dashboard": False} if config.address == "local" else {}
        try:
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.WARNING, **settings)
        except ConnectionError as error:
            raise ConnectionError(f"no Ray at ray.address={config.address} ({error}): ray start --head on one machine, or ray.address=local") from error
    try:
        there = ray.cluster_resources()
        _check_size(config, there)
        _check_gpus(whole, there)
        _check_vllm(whole)
        yield
    finally:
        if own:
            ray.shutdown()


def _check_size(config: RayConfig, there: Mapping[str, float]) -> None:
    for name, each in (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker)):
        if config.workers * each > there.get(name, 0.0):
            wanted = f"ray.workers={config.workers} with {each:g} {name}s each"
            raise ValueError(f"{wanted} do not fit into a cluster with {there.get(name, 0.0):g} {name}s: lower one of them, or wait for more machines")


def _check_gpus(config: DestaConfig, there: Mapping[str, float]) -> None:
    """Refuse engines without a GPU of their own where there are GPUs: Ray (2.60) hides none from a worker that was given none, so that all take the first."""
    engine, gpus = config.generation.engine, there.get("GPU", 0.0)
    if engine == "openai" or gpus == 0 or config.ray.gpus_per_worker > 0 or config.ray.workers == 1:
        return
    each = config.generation.vllm.tensor_parallel_size if engine == "vllm" else 1
    raise ValueError(
        f"ray.gpus_per_worker=0 with generation.engine={engine} on a cluster with {gpus:g} GPUs, of which all workers would take the first: "
        f"set ray.gpus_per_worker={each}, or hide the GPUs from Ray to compute without them (CUDA_VISIBLE_DEVICES= where it starts)"
    )


def _check_vllm(config: DestaConfig) -> None:
    """Refuse vLLM where Ray's workers lack it, before a plan names that engine."""
    import ray

    def lacking() -> bool:
        return importlib.util.find_spec("vllm") is None

    if config.generation.engine == "vllm" and ray.get(ray.remote(lacking).options(num_cpus=0).remote()):
        raise ValueError(
            "generation.engine=vllm, but the Python of Ray's workers has no vLLM: start Ray from an environment of tools/vllm_env.sh (docs/scale.md), "
            "or choose engine=transformers"
        )


def _survey(files: Sequence[Path], shard_cuts: int, *, whole: bool) -> Inputs:
    """Look through all files, one task each."""
    import ray

    def look(row: dict[str, Any]) -> dict[str, Any]:
        entry, values, problems, ids = survey_file(Path(row["path"]), None if whole else shard_cuts)
        return {"said": json.dumps([entry, values, problems]), "ids": ids}

    logger.info("looking through %d input files", len(files))
    _quiet()
    rows = ray.data.from_items([{"path": str(file)} for file in files], override_num_blocks=len(files)).map(look).take_all()
    found = {entry["path"]: (entry, values, problems, row["ids"]) for row in rows for entry, values, problems in [json.loads(row["said"])]}
    return gather([found[str(file)] for file in files], shard_cuts)


def _tables(parts: Sequence[Part], pool: PromptPool, config: GenerationConfig) -> list[str]:
    """What `table_of_part` says of each part, one task a part."""
    import ray

    def look(row: dict[str, Any]) -> dict[str, Any]:
        part = Part.loads(row["part"])
        return {"number": part.number, "table": table_of_part(part, pool, config)}

    logger.info("looking for clips that can be compared")
    _quiet()
    items = [{"part": replace(part, chosen=None).dumps()} for part in parts]
    found = ray.data.from_items(items, override_num_blocks=len(items)).map(look).take_all()
    return [row["table"] for row in sorted(found, key=lambda row: int(row["number"]))]


def _quiet() -> None:
    """The bar is ours, and so are the sentences about errors."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


class Counter:
    """An actor that hears of every answered batch, for the progress bar."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, rows: int) -> None:
        """So many more."""
        self.rows += rows

    def total(self) -> int:
        """All so far."""
        return self.rows


def _work(job: Job, parts: Sequence[Part]) -> tuple[Work, float]:
    """Have all parts written.

    Returns:
        What this run did itself, and the seconds from the first engine's readiness to the last answer.

    Raises:
        OSError, ValueError: of a worker (`Worker.write`), or a worker died too often.
    """
    from ray.exceptions import RayActorError

    done, ready, ended = Work(), float("inf"), 0.0
    with _progress(job.config, parts) as (counter, expected):
        try:
            for result in _results(job, parts, counter):
                if "error" in result:
                    raise_error(result)
                work = Work(**result["work"])
                done, expected[result["part"]] = done + work, work.rows
                if work.rows:
                    ready, ended = min(ready, result["ready"]), max(ended, result["ended"])
        except RayActorError as error:
            limit = f"ray.max_restarts={job.config.ray.max_restarts}"
            logs = "logs of the workers lie in Ray's own folder for temporary files, below session_latest/logs"
            safe = "what is written is safe, the same command goes on"
            raise OSError(f"a worker died more often than {limit} allows; {safe}; {logs} ({str(error).splitlines()[0]})") from error
    return done, max(ended - ready, 0.0)


def _results(job: Job, parts: Sequence[Part], counter: Any) -> Iterator[dict[str, Any]]:
    """Results of the workers, in whatever order they finish."""
    import ray

    _quiet()
    c = job.config.ray
    handed = ray.data.from_items([{"part": part.dumps()} for part in parts], override_num_blocks=len(parts))
    written = handed.map_batches(
        Worker,
        fn_constructor_kwargs={"job": job, "counter": counter},
        batch_size=1,
        # One part at a time: a second one in an actor's queue could not go to an idle actor.
        compute=ray.data.ActorPoolStrategy(size=min(c.workers, len(parts)), max_tasks_in_flight_per_actor=1),
        num_cpus=c.cpus_per_worker,
        num_gpus=c.gpus_per_worker or None,
        max_restarts=c.max_restarts,
        max_task_retries=c.max_restarts,
    )
    for batch in written.iter_batches(batch_size=None, prefetch_batches=0):
        yield from (json.loads(text) for text in batch["result"])


@contextlib.contextmanager
def _progress(config: DestaConfig, parts: Sequence[Part]) -> Iterator[tuple[Any, dict[int, int]]]:
    """Show the rows while the body runs.

    Yields:
        The counter that the workers report to, and the rows expected of each part, where the body enters what it learns of finished ones.
    """
    import ray

    counter = ray.remote(num_cpus=0)(Counter).remote()
    each = config.generation.prompts_per_cut
    expected = {part.number: part.rows_at_most(each) for part in parts}
    stop = threading.Event()

    def watch(progress: RowsProgress) -> None:
        while not stop.wait(POLL_SECONDS):
            progress.show(ray.get(counter.total.remote()), sum(expected.values()))

    with RowsProgress(sum(expected.values())) as progress:
        watcher = threading.Thread(target=watch, args=(progress,), daemon=True, name="progress")
        watcher.start()
        try:
            yield counter, expected
        finally:
            stop.set()
            watcher.join()


# --- the whole ---------------------------------------------------------------------------------------------------------------------------------------


def _parts(config: DestaConfig, paths: Paths, inputs: Inputs, pool: PromptPool) -> list[Part]:
    """The parts; rows about several clips are drawn over the whole set first (see `several`)."""
    parts = _dealt(config, inputs, pool)
    if config.generation.multi_audio_fraction == 0:
        return parts
    return deal_comparisons(parts, _tables(parts, pool, config.generation), pool, config.generation, paths.targets)


def _dealt(config: DestaConfig, inputs: Inputs, pool: PromptPool) -> list[Part]:
    """The parts; with ``generation.rows`` the rows are dealt over the whole set first, which must fit into memory for that."""
    parts = inputs.parts()
    if config.generation.rows == 0:
        return parts
    from nemo_desta.assets import resolve_model
    from nemo_desta.generation.engines.tokens import load_chat_tokenizer

    cuts = [cut for part in parts for cut in part.cuts()]
    plan = make_plan(cuts, pool, config.generation, load_chat_tokenizer(resolve_model(config.model.llm)))
    return deal(parts, [(row.cut_id, row.prompt.id) for row in plan])


def _run_key(config: DestaConfig, paths: Paths, pool: PromptPool, inputs: Inputs) -> str:
    return done_key(config, paths, pool, inputs.sha256, shard_cuts=inputs.shard_cuts)


def _complete(paths: Paths, key: str) -> bool:
    """Whether an earlier run wrote all that this one would write."""
    manifest = read_json(paths.manifest) or {}
    shards = (read_json(paths.targets / DESCRIPTION) or {}).get("shards", [])
    there = all((paths.targets / shard["name"]).is_file() and (paths.targets / shard["name"]).stat().st_size == shard["bytes"] for shard in shards)
    return manifest.get("done_key") == key and bool(shards) and there


def _finish(config: DestaConfig, paths: Paths, pool: PromptPool, inputs: Inputs, done: tuple[Work, float]) -> None:
    """Put the parts together: the store's description, the manifest, the rates."""
    manifests = [_manifest(Paths(paths.root, part.number)) for part in inputs.parts()]
    counts = merged([manifest["targets"] for manifest in manifests])
    shards = [manifest["shard"] for manifest in manifests if manifest["shard"]["lines"]]
    if not shards or (counts["kept"] == 0 and config.generation.drop_rejected):
        raise nothing_kept(counts["asked"], paths.targets / "parts")
    describe(paths.targets, shards, made_from=inputs.sha256)
    provenance.write_json_atomic(paths.targets / PROMPTS, merged_statistics(_prompts(Paths(paths.root, m["part"])) for m in manifests))
    report = throughput(done[0], config.ray.workers, done[1])
    if report:
        provenance.write_json_atomic(paths.targets / THROUGHPUT, report)
    origin = {"files": inputs.files, "problems": inputs.problems, "generators": _distinct(manifest["generator"] for manifest in manifests)}
    counters = {key: sum(m["engine_counters"].get(key, 0) for m in manifests) for m in manifests for key in m["engine_counters"]}
    sums = {"generated": sum(manifest["generated"] for manifest in manifests), "engine_counters": counters, "targets": counts}
    extra = {"done_key": _run_key(config, paths, pool, inputs), **sums, "input_files": origin, "parts": len(manifests)}
    provenance.write_json_atomic(paths.manifest, provenance.manifest(config, {}, **extra))
    said = counts["kept"], counts["asked"], 100 * counts["yield"], len(shards), paths.targets
    logger.info("targets: %d of %d answers kept (%.0f %%), in %d shards in %s", *said)
    log_throughput(report)


def _manifest(paths: Paths) -> dict[str, Any]:
    found = read_json(paths.manifest)
    assert found is not None, f"{paths.manifest} vanished"
    return found


def _prompts(paths: Paths) -> dict[str, Any]:
    found = read_json(paths.targets / PROMPTS)
    if found is None or not all("counts" in entry for entry in found["by_prompt"]):
        raise ValueError(
            f"{paths.targets / PROMPTS} is damaged or of an earlier version: remove {paths.manifest}, then the same command counts the answers again"
        )
    return found


def _distinct(generators: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """What engines there were: more than one where the machines differ."""
    by_text = {hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest(): one for one in generators}
    return list(by_text.values())
