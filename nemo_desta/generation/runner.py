"""Write the training targets of a run: plan, answer, filter, attach to the cuts.

Everything lies below ``<run_dir>/targets``: ``plan.json`` (what the journal belongs to), ``rows.jsonl`` (journal of all answers), ``rejected.jsonl``,
``cuts_train.jsonl.gz`` (the result, contract C1) and ``manifest.json`` (contract C8; written last, so that its presence means done).
A run on Ray (`ray_job`) does the same for each part of a large set.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lhotse import CutSet

from nemo_desta import provenance
from nemo_desta.config import DestaConfig, GenerationConfig
from nemo_desta.corpora.manifests import read_cuts, write_cuts, write_lines
from nemo_desta.data.supervision import add_self_generated
from nemo_desta.generation.answering import Work, answer_batches
from nemo_desta.generation.checks import check_settings
from nemo_desta.generation.comparison import Compared, whole_plan
from nemo_desta.generation.engines import Engine, engine_settings, make_engine
from nemo_desta.generation.engines.base import Completion
from nemo_desta.generation.journal import Journal
from nemo_desta.generation.paths import Paths
from nemo_desta.generation.plan import TargetRow, vocabulary
from nemo_desta.generation.throughput import FILE as THROUGHPUT
from nemo_desta.generation.throughput import log_throughput, throughput
from nemo_desta.generation.turns import follow_ups
from nemo_desta.locking import exclusive
from nemo_desta.seed.describe import with_seed
from nemo_desta.seed.prompts import POOL_DIR, PromptPool, load_pool

logger = logging.getLogger(__name__)

# Keys that do not change the answers, or only through the prompts, whose hash is compared; of an engine's section `engine_settings` says what matters.
NOT_COMPARED = ("drop_rejected", "prompt_files", "openai", "vllm")
UNKNOWN = "unknown"  # revision of a model whose files are not found
PROMPTS = "prompts.json"  # lengths, refusals and yields by prompt
SHIPPED = "shipped"  # the package's own pool, as an entry of generation.prompt_files


@dataclass(frozen=True)
class Unit:
    """Cuts that are asked and written together: all of a run, or a part of them.

    Attributes:
        values: vocabulary of the whole set.
        done_key: hash of all that the result depends on.
        inputs: name -> file to be fingerprinted in the manifest.
        chosen: see `make_plan`.
        compared: see `whole_plan`.
        every_cut: also cuts without a target are written.
        said: further entries of the manifest.
    """

    paths: Paths
    cuts: CutSet
    values: Mapping[str, Sequence[str]]
    done_key: str
    inputs: Mapping[str, Path]
    chosen: Sequence[tuple[str, str]] | None = None
    compared: Compared | None = None
    every_cut: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)


def generate_targets(config: DestaConfig, *, engine: Engine | None = None, pool: PromptPool | None = None) -> Path:
    """Write the targets of a run, or go on where an earlier process stopped.

    Args:
        config: of the run; ``generation``, ``model.llm`` and ``model.llm_precision`` matter.
        engine: already loaded backbone; default: `make_engine`.
        pool: prompts; default: those of ``generation.prompt_files``.

    Returns:
        ``targets/cuts_train.jsonl.gz``: the training cuts that have at least one target.

    Raises:
        FileNotFoundError: no corpus.
        ValueError: a setting, targets of other settings in the directory, another process works there, or nothing survived the filters.
    """
    check_settings(config.generation)
    paths, pool = Paths.of(config), pool_of(config, pool)
    if config.ray.input is not None:
        raise ValueError(f"ray.input={config.ray.input} is read by a run on Ray: set ray.address too (local = on this machine)")
    if not paths.corpus.exists():
        raise FileNotFoundError(f"{paths.corpus} does not exist: run examples/prepare_corpus.py with the same configuration first")
    key = done_key(config, paths, pool, provenance.sha256_file(paths.corpus))
    if is_done(paths, key):
        logger.info("targets in %s are complete: nothing to do", paths.targets)
        return paths.cuts
    with exclusive(paths.targets):
        cuts = read_cuts(paths.corpus).to_eager()
        unit = Unit(paths, cuts, vocabulary(cuts), key, {"cuts_train": paths.corpus})
        with _engine(engine, config) as engine:
            manifest, work = write_targets(config, unit, pool, engine)
        provenance.write_json_atomic(paths.manifest, manifest)
        if report := throughput(work, 1, work.seconds):
            provenance.write_json_atomic(paths.targets / THROUGHPUT, report)
            log_throughput(report)
    return paths.cuts


def nothing_kept(asked: int, where: Path) -> ValueError:
    """What to say when every answer was rejected."""
    return ValueError(f"none of the {asked} answers passed the filters: see {where}; is model.llm an instruction-tuned model?")


def pool_of(config: DestaConfig, pool: PromptPool | None = None) -> PromptPool:
    """The prompts of a run: those given or configured, for a small backbone without the ones that it answers wrongly."""
    pool = pool or load_pool(prompt_paths(config.generation))
    return pool.for_small_backbone() if config.generation.small_backbone_prompts else pool


@contextlib.contextmanager
def _engine(given: Engine | None, config: DestaConfig) -> Iterator[Engine]:
    """The caller's engine, or one of our own that is closed at the end."""
    engine = given or make_engine(config)
    try:
        yield engine
    finally:
        if given is None:
            engine.close()


def write_targets(
    config: DestaConfig, unit: Unit, pool: PromptPool, engine: Engine, on_rows: Callable[[int], None] | None = None
) -> tuple[dict[str, Any], Work]:
    """Plan, answer, filter, attach, for an engine that is there; all files but the manifest.

    Args:
        on_rows: see `answer_batches`.

    Returns:
        The manifest, which the caller writes when it is content, and what this process did itself.
    """
    folder = unit.paths.targets
    plan = whole_plan(unit.cuts, pool, config.generation, engine.tokenizer, unit.chosen, unit.compared)
    asked, batches = _batched(plan, engine, config)
    claim(folder, _identity(config, engine, plan, batches))
    answers, work = _answers(folder / "rows.jsonl", plan, asked, batches, engine, on_rows)
    generated = len(asked)
    if config.generation.multi_turn_fraction:
        from nemo_desta.generation.filters import reject_reason

        reasons = {row.row_id: reject_reason(row, answers[row.row_id], unit.values) for row in plan}
        further = follow_ups([row for row in plan if not row.others], answers, reasons, config.generation.multi_turn_fraction, engine.tokenizer)
        asked, batches = _batched(further, engine, config)
        second, more = _answers(folder / "rows_turn2.jsonl", further, asked, batches, engine, on_rows)
        plan, answers, work, generated = [*plan, *further], answers | second, work + more, generated + len(asked)
    extra = {"done_key": unit.done_key, "generated": generated, "seconds_of_this_process": round(work.seconds, 1), "engine_counters": engine.counters()}
    return _finish(config, unit, plan, answers, engine, extra), work


def _batched(plan: Sequence[TargetRow], engine: Engine, config: DestaConfig) -> tuple[dict[str, TargetRow], list[list[TargetRow]]]:
    """The rows that are really asked (see `distinct`), and their batches."""
    asked = distinct(plan, greedy=config.generation.temperature == 0)
    rows = list(asked.values())
    return asked, make_batches(rows, engine.count_tokens([row.text for row in rows]), config.generation.batch_tokens)


def _answers(
    path: Path,
    plan: Sequence[TargetRow],
    asked: Mapping[str, TargetRow],
    batches: Sequence[Sequence[TargetRow]],
    engine: Engine,
    on_rows: Callable[[int], None] | None,
) -> tuple[dict[str, Completion], Work]:
    """Answers by row id, from the journal as far as it goes; what the rest took."""
    journal = Journal(path, [[row.row_id for row in batch] for batch in batches])
    work = answer_batches(journal, batches, engine, on_rows)
    return {row.row_id: journal.answers[asked[row.text if row.text in asked else row.row_id].row_id] for row in plan}, work


def prompt_paths(config: GenerationConfig) -> list[str | Path] | None:
    """What `load_pool` reads for ``generation.prompt_files``, where "shipped" stands for the package's own pool; None = that pool alone."""
    return [POOL_DIR if name == SHIPPED else name for name in config.prompt_files] or None


# --- what a run is -----------------------------------------------------------------------------------------------------------------------------------


def distinct(plan: Sequence[TargetRow], *, greedy: bool) -> dict[str, TargetRow]:
    """The rows that the backbone is really asked. Greedy decoding answers equal texts equally, so each text is asked once and its rows share the answer.

    Returns:
        Greedy: text -> its first row. Sampled: row id -> row, all of them.
    """
    if not greedy:
        return {row.row_id: row for row in plan}
    first: dict[str, TargetRow] = {}
    for row in plan:
        first.setdefault(row.text, row)
    return first


def make_batches(plan: Sequence[TargetRow], lengths: Sequence[int], batch_tokens: int) -> list[list[TargetRow]]:
    """Rows of like length together, at most `batch_tokens` padded prompt tokens a batch; a pure function of its arguments.

    The batches come in the order of a hash, so that rows/s is even over the run and an interrupted journal is a fair sample.
    """
    ordered = sorted(zip(lengths, plan, strict=True), key=lambda pair: (pair[0], pair[1].row_id))
    batches: list[list[TargetRow]] = []
    for length, row in ordered:  # ascending: the newest row is the longest of its batch
        if not batches or length * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return sorted(batches, key=lambda batch: hashlib.sha256(batch[0].row_id.encode()).digest())


def _settings(config: GenerationConfig) -> dict[str, Any]:
    compared = {key: value for key, value in provenance.plain(config).items() if key not in NOT_COMPARED}
    for key in ("multi_turn_fraction", "multi_audio_fraction"):
        if not compared[key]:
            del compared[key]  # runs from before there was such a thing stay what they are
    return {f"generation.{key}": value for key, value in (compared | engine_settings(config)).items()}


def run_identity(config: DestaConfig) -> dict[str, Any]:
    """Settings and backbone: what the answers of any set depend on."""
    return {**_settings(config.generation), "model.llm": config.model.llm, "model.revision": model_revision(config.model.llm)}


def _identity(config: DestaConfig, engine: Engine, plan: Sequence[TargetRow], batches: Sequence[Sequence[TargetRow]]) -> dict[str, Any]:
    """All that the answers depend on."""
    digest = hashlib.sha256()
    for batch in batches:
        for row in batch:
            digest.update(f"{row.row_id}\x1f{row.text}\x1e".encode())
        digest.update(b"\x1d")
    # Another number of threads or release of vLLM is no reason to refuse to go on: it may round an answer differently, and provenance names it.
    described = {key: value for key, value in engine.describe().items() if key not in ("threads", "vllm")}
    return {**run_identity(config), **described, "rows": len(plan), "batches": len(batches), "plan_sha256": digest.hexdigest()}


@lru_cache(maxsize=4)
def model_revision(reference: str) -> str:
    """Fingerprint of the backbone: sha256 of a local or asset directory, the commit of a hub model's cached snapshot, else "unknown"."""
    from huggingface_hub import try_to_load_from_cache

    from nemo_desta.assets import resolve_model

    resolved = resolve_model(reference)
    if isinstance(resolved, Path):
        return provenance.fingerprint(resolved)["sha256"][:16] if resolved.exists() else UNKNOWN
    cached = try_to_load_from_cache(resolved, "config.json")  # <cache>/models--<owner>--<name>/snapshots/<commit>/config.json
    return Path(cached).parent.name if isinstance(cached, str) else UNKNOWN


def claim(directory: Path, identity: dict[str, Any]) -> None:
    """Write what the journal belongs to, or check that it belongs to this run.

    Raises:
        ValueError: it belongs to other settings; the message names them.
    """
    path = directory / "plan.json"
    found = read_json(path)
    if found is None:
        if (directory / "rows.jsonl").exists() and (directory / "rows.jsonl").stat().st_size:
            raise ValueError(f"{directory} has a journal of answers but no readable plan.json: choose another run_dir, or remove {directory}")
        provenance.write_json_atomic(path, identity)
        return
    if differing := [key for key in {**found, **identity} if found.get(key) != identity.get(key)]:
        listed = ", ".join(f"{key} was {found.get(key)!r}, is {identity.get(key)!r}" for key in differing)
        raise ValueError(f"{directory} holds targets of other settings ({listed}): choose another run_dir, or remove {directory} to write them anew")


def done_key(config: DestaConfig, paths: Paths, pool: PromptPool, corpus_sha256: str, **further: Any) -> str:
    """Hash of all that the result depends on and that is quick to read: no model is loaded to find that a run is complete."""
    from nemo_desta.generation import filters
    from nemo_desta.seed import matching

    sources = [Path(str(filters.__file__)), filters.FREQUENT_WORDS_PATH, Path(str(matching.__file__)), matching.SYNONYMS_PATH]
    prompts = "\n".join(f"{p.id}\x1f{p.text}" for p in pool)
    parts = {
        **_settings(config.generation),
        "drop_rejected": config.generation.drop_rejected,
        "llm": config.model.llm,
        "precision": config.model.llm_precision,
        "corpus": corpus_sha256,
        "pool": hashlib.sha256(prompts.encode()).hexdigest(),
        "filters": [provenance.sha256_file(path) for path in sources],
        **({"review": provenance.sha256_file(paths.review)} if paths.review.exists() else {}),
        **further,
    }
    return hashlib.sha256(json.dumps(provenance.plain(parts), sort_keys=True).encode()).hexdigest()


def is_done(paths: Paths, key: str) -> bool:
    """Whether the result is there, whole, and what would be written now."""
    manifest = read_json(paths.manifest) or {}
    return manifest.get("done_key") == key and paths.cuts.exists() and manifest.get("output_sha256") == provenance.sha256_file(paths.cuts)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# --- result ------------------------------------------------------------------------------------------------------------------------------------------


def _finish(
    config: DestaConfig, unit: Unit, plan: Sequence[TargetRow], answers: Mapping[str, Completion], engine: Engine, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Filter the answers, attach the good ones to their cuts, write the result; the manifest."""
    from nemo_desta.generation.filters import reject_reason
    from nemo_desta.generation.quality import prompt_statistics
    from nemo_desta.generation.review import overrule, read_verdicts
    from nemo_desta.generation.statistics import summary

    paths = unit.paths
    filtered = {row.row_id: reject_reason(row, answers[row.row_id], unit.values) for row in plan}
    reasons = overrule(filtered, read_verdicts(paths.review))
    write_lines(paths.targets / "rejected.jsonl", (_rejected_line(row, answers[row.row_id], reason) for row in plan if (reason := reasons[row.row_id])))
    kept = [row for row in plan if reasons[row.row_id] is None or not config.generation.drop_rejected]
    if not kept and paths.part is None:
        raise nothing_kept(len(plan), paths.targets / "rejected.jsonl")
    provider = _provider(config, engine)
    write_cuts(paths.cuts, _with_targets(unit, kept, answers, provider))
    provenance.write_json_atomic(paths.targets / PROMPTS, prompt_statistics(plan, answers, reasons))
    counts = summary(plan, answers, reasons)
    logger.info("targets: %d of %d answers kept (%.0f %%), in %s", counts["kept"], counts["asked"], 100 * counts["yield"], paths.cuts)
    extra = {**extra, "output_sha256": provenance.sha256_file(paths.cuts), "generator": provider, "targets": counts, **unit.said}
    return provenance.manifest(config, unit.inputs, **extra)


def _provider(config: DestaConfig, engine: Engine) -> dict[str, Any]:
    """Provenance that all rows share (contract C1)."""
    g = config.generation
    sampling = {"temperature": g.temperature, "top_p": g.top_p, "max_tokens": g.max_new_tokens, "seed": g.seed}
    return {"model": config.model.llm, "revision": model_revision(config.model.llm), **engine.describe(), **sampling}


def _with_targets(unit: Unit, kept: Sequence[TargetRow], answers: Mapping[str, Completion], provider: Mapping[str, Any]) -> Iterable[Any]:
    """The cuts that have a target (or all), in corpus order, each with its seed description and its rows in plan order.

    ``custom["seed_description"]`` is the clip's whole description; a row's ``generator["seed_text"]`` is what the backbone read, which may be a part of it.
    """
    rows: dict[str, list[TargetRow]] = {}
    for row in kept:
        rows.setdefault(row.cut_id, []).append(row)
    wanted = {name for row in kept for name in row.others}
    others = {cut.id: cut for cut in (*unit.cuts, *(unit.compared.further if unit.compared else ())) if cut.id in wanted}
    for cut in unit.cuts:
        if cut.id not in rows and not unit.every_cut:
            continue
        if not (cut.custom or {}).get("seed_description"):
            cut = with_seed(cut)
        for row in rows.get(cut.id, ()):
            answer = answers[row.row_id]
            about = {"prompt_sha256": hashlib.sha256(row.text.encode()).hexdigest(), "finish_reason": answer.finish_reason, "seed_text": row.seed}
            cut = add_self_generated(
                cut,
                row_id=row.row_id,
                response=answer.text,
                messages=row.messages,
                prompt=row.prompt.text,
                prompt_id=row.prompt.id,
                prompt_kind=row.prompt.kind,
                attribute=row.prompt.attribute,
                clips=[others[name] for name in row.others],
                generator={**provider, **about, **({"seed_texts": list(row.seeds)} if row.seeds else {})},
            )
        yield cut


def _rejected_line(row: TargetRow, answer: Completion, reason: str) -> str:
    asked = {"prompt_id": row.prompt.id, "prompt": row.prompt.text, "kind": row.prompt.kind, "attribute": row.prompt.attribute}
    gold = row.gold or (row.attributes.get(row.prompt.attribute) if row.prompt.attribute else None)
    record: dict[str, Any] = {"row_id": row.row_id, "cut_id": row.cut_id, "reason": reason, **asked, "gold": gold, "seed": row.seed, "text": answer.text}
    if row.others:
        record["other_clips"] = list(row.others)
    return json.dumps(record, ensure_ascii=False)
