"""From the clips that a recipe names to FLAC files and a CutSet: parallel, checked, resumable.

A recipe only parses labels and yields one `ClipSource` per clip; `build_cuts` does everything that is the same for all corpora.
Below ``<output_dir>/<name>/`` it writes ``audio/*.flac``, ``journal.jsonl`` (one line per finished source, so that a killed run goes on
where it was), ``skipped.jsonl`` (what was left out, and why), ``cuts.jsonl.gz`` and, last, ``.completed``.
"""

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_desta.corpora import REGISTRY
from nemo_desta.corpora.audio import SAMPLE_RATE, AudioError, AudioLoader, load_16k, rms_db, windows, write_flac
from nemo_desta.corpora.fingerprint import material_digest, recipe_digest
from nemo_desta.corpora.manifests import read_cuts, write_atomic, write_cuts, write_lines
from nemo_desta.corpora.splits import SPLITS, assign_splits, check_disjoint
from nemo_desta.jsonl import text_lines

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

    from nemo_desta.config import CorpusConfig

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raise it when the same source must give other samples or other measured attributes
DOMAINS = ("speech", "sound", "music", "mixed")
CUTS_FILE = "cuts.jsonl.gz"
_CHUNK = 16  # sources per task: enough to hide the cost of a task, few enough to lose little when killed
_BAD_REASONS = frozenset({"missing", "empty", "undecodable"})  # these count against max_bad_fraction; short and silent clips do not


@dataclass(frozen=True)
class BuildSettings:
    """How clips are checked, cut and divided. The fields are those of `nemo_desta.config.CorpusConfig`."""

    max_clip_seconds: float = 30.0  # longer recordings become windows
    min_clip_seconds: float = 0.3  # shorter ones are skipped and counted
    min_rms_db: float = -60.0  # dBFS; quieter ones are skipped and counted
    test_fraction: float = 0.1  # share of the clips held out, by group, where the recipe names no split
    num_jobs: int = 2  # processes; 1 = in this process
    max_bad_fraction: float = 0.05  # more missing or undecodable clips than this is an error
    seed: int = 0
    variant: str = ""  # options of the recipe as text: a finished corpus is built again when they change

    @classmethod
    def from_config(cls, cfg: "CorpusConfig", variant: str = "") -> "BuildSettings":
        """The settings of a corpus configuration (a dataclass or an OmegaConf node of it)."""
        names = [f.name for f in dataclasses.fields(cls) if f.name != "variant"]
        return cls(variant=variant, **{name: getattr(cfg, name) for name in names})

    def fingerprint(self, name: str) -> str:
        """Of everything that decides what is built of a corpus; the number of processes does not."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("num_jobs", "max_bad_fraction")}
        return _digest({"format": FORMAT_VERSION, "recipe": recipe_digest(name), **values})


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """One recording of a corpus and what the corpus says about it (contract C1)."""

    id: str  # unique in the corpus; becomes part of the cut's id and of the file name
    audio: Path | AudioLoader  # a file, or a picklable callable (functools.partial of a module's function) returning bytes or (samples, rate)
    group: str  # unit of splitting: speaker, character, level or source file
    domain: str  # speech | sound | music | mixed
    licence: str  # SPDX-like identifier or short name
    attribution: str  # whom to credit
    origin: str  # package and path of the member
    text: str | None = None  # transcript, as spoken
    language: str | None = None  # English name with a capital letter
    gender: str | None = None  # male | female
    speaker: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # plain JSON; wins over what is measured
    split: str | None = None  # train | test; None = by hash of the group
    format: str | None = None  # container format where neither suffix nor first bytes tell it ("g722")

    def __post_init__(self) -> None:
        """Catch a recipe's mistakes where they are made."""
        if self.domain not in DOMAINS:
            raise ValueError(f"clip {self.id!r}: domain {self.domain!r} is none of {DOMAINS}")
        if self.gender not in (None, "male", "female"):
            raise ValueError(f'clip {self.id!r}: gender {self.gender!r} must be "male", "female" or None')


def build_cuts(name: str, sources: Iterable[ClipSource], output_dir: str | Path, settings: BuildSettings) -> "CutSet":
    """Decode, check, cut and write the clips of one corpus.

    Args:
        name: Of the corpus; also the name of its folder.
        sources: Its clips. Not read at all when the corpus is already complete with the same settings.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        The finished clips, in the order of the sources.

    Raises:
        ValueError: Two sources with the same id, a group with two splits, no usable clip at all, or more than
            ``settings.max_bad_fraction`` missing or undecodable clips (the message names some of them).
        OSError: The disk is full or not writable. Finished clips stay, and another run goes on from them.
    """
    root = Path(output_dir).resolve() / name
    if is_complete(name, output_dir, settings):
        return read_cuts(root / CUTS_FILE)
    todo = list(sources)
    slugs = _slugs(name, todo)
    splits = assign_splits(((s.group, s.split) for s in todo), test_fraction=settings.test_fraction, salt=f"{name}:{settings.seed}")
    (root / "audio").mkdir(parents=True, exist_ok=True)
    (root / ".completed").unlink(missing_ok=True)
    results = _process_all(name, todo, slugs, root, settings)
    skips = [skip for slug in slugs for skip in results[slug]["skips"]]
    write_lines(root / "skipped.jsonl", (json.dumps(skip, ensure_ascii=False) for skip in skips))
    _check_bad(name, skips, len(todo), settings.max_bad_fraction, root)
    cuts = [_cut(name, source, clip, splits[source.group], root) for source, slug in zip(todo, slugs, strict=True) for clip in results[slug]["clips"]]
    if not cuts:
        raise ValueError(f"corpus {name!r}: none of its {len(todo)} clips can be used; see {root / 'skipped.jsonl'} for the reasons")
    check_disjoint((cut.custom["group"], cut.custom["split"]) for cut in cuts)
    write_cuts(root / CUTS_FILE, cuts)
    _mark_complete(root, settings, len(todo), cuts, skips)
    return _cut_set(cuts)


def is_complete(name: str, output_dir: str | Path, settings: BuildSettings) -> bool:
    """Whether a corpus is finished with exactly these settings, in this place (cuts hold absolute paths)."""
    root = Path(output_dir).resolve() / name
    try:
        marker = json.loads((root / ".completed").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return marker.get("fingerprint") == settings.fingerprint(name) and marker.get("root") == str(root) and (root / CUTS_FILE).is_file()


def corpus_summary(name: str, output_dir: str | Path) -> dict[str, Any]:
    """Counts of a finished corpus: ``{"sources", "clips", "hours", "train", "test", "domains", "skipped": {reason: n}, "sha256"}``."""
    marker = json.loads((Path(output_dir).resolve() / name / ".completed").read_text("utf-8"))
    return marker["summary"]


# --- work -----------------------------------------------------------------------------------------------------------------------------


def _slugs(name: str, sources: Sequence[ClipSource]) -> list[str]:
    """Cut ids: the corpus name and the source's id with everything unusual in a file name replaced."""
    slugs = [f"{name}-" + re.sub(r"[^A-Za-z0-9_.]+", "-", source.id).strip("-.") for source in sources]
    twice = [slug for slug, n in Counter(slugs).items() if n > 1]
    if twice:
        raise ValueError(f"corpus {name!r}: {len(twice)} ids occur more than once, for example {twice[:3]}")
    return slugs


def _source_key(source: ClipSource, settings: BuildSettings, material: str) -> str:
    """What decides a clip's samples and measured attributes. Labels may change without decoding the clip again."""
    size = source.audio.stat().st_size if isinstance(source.audio, Path) and source.audio.exists() else -1
    audio = [settings.max_clip_seconds, settings.min_clip_seconds, settings.min_rms_db]
    return _digest([FORMAT_VERSION, material, source.origin, size, source.text, source.domain, source.format, audio])


def _process_all(name: str, sources: Sequence[ClipSource], slugs: Sequence[str], root: Path, settings: BuildSettings) -> dict[str, dict[str, Any]]:
    """Results by slug: those of the journal, and those made now (added to the journal as they come)."""
    journal = root / "journal.jsonl"
    material = material_digest(name)
    keys = [_source_key(source, settings, material) for source in sources]
    done = _read_journal(journal, dict(zip(slugs, keys, strict=True)), root)
    tasks = [(source, slug, key) for source, slug, key in zip(sources, slugs, keys, strict=True) if slug not in done]
    if done and tasks:
        logger.info("%s: %d of %d clips are already done", name, len(done), len(sources))
    chunks = [tasks[i : i + _CHUNK] for i in range(0, len(tasks), _CHUNK)]
    with open(journal, "a", encoding="utf-8") as log, _progress(name, len(tasks)) as advance:
        for results in _run_chunks(chunks, root, settings):
            for result in results:
                if "fatal" in result:
                    raise OSError(result["errno"], f"corpus {name!r}: cannot write {root}: {result['fatal']}. Finished clips are kept: make room, run again")
                done[result["slug"]] = result
                log.write(json.dumps(result, ensure_ascii=False) + "\n")
            log.flush()
            advance(len(results))
    return done


def _run_chunks(chunks: Sequence[list], root: Path, settings: BuildSettings) -> Iterator[list[dict[str, Any]]]:
    """Results of the chunks, as they finish."""
    if settings.num_jobs <= 1 or len(chunks) <= 1:
        yield from (_process_chunk(chunk, root, settings) for chunk in chunks)
        return
    # fork: children start in milliseconds and do not import the caller's main module (NeMo's Hydra runner takes 15 s) again.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(min(settings.num_jobs, len(chunks)), mp_context=multiprocessing.get_context(method))
    waiting: set[Future] = set()
    try:
        for chunk in chunks:
            waiting.add(pool.submit(_process_chunk, chunk, root, settings))
            if len(waiting) >= 4 * settings.num_jobs:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        yield from (future.result() for future in as_completed(waiting))  # as they finish: what is not in the journal is lost by a kill
    except BrokenProcessPool as error:
        raise RuntimeError(f"a worker process died (out of memory, or killed) while it wrote {root}; finished clips are kept, run again") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _process_chunk(chunk: Sequence[tuple[ClipSource, str, str]], root: Path, settings: BuildSettings) -> list[dict[str, Any]]:
    """Worker: plain dictionaries come back, because Lhotse is not imported here. Stops at the first error of the disk."""
    results: list[dict[str, Any]] = []
    for source, slug, key in chunk:
        try:
            results.append({"slug": slug, "key": key, **_process(source, slug, root, settings)})
        except OSError as error:
            results.append({"fatal": str(error), "errno": error.errno or 5})
            break
    return results


def _process(source: ClipSource, slug: str, root: Path, settings: BuildSettings) -> dict[str, Any]:
    """Decode one source, write its windows. Only writing may raise."""
    clips: list[dict[str, Any]] = []
    skips: list[dict[str, Any]] = []
    try:
        samples = load_16k(source.audio, format=source.format)
    except AudioError as error:
        return {"clips": clips, "skips": [_skip(slug, source, error.reason, error.detail)]}
    except OSError as error:  # of a loader that reads a container
        return {"clips": clips, "skips": [_skip(slug, source, "undecodable", str(error))]}
    parts = windows(len(samples), settings.max_clip_seconds)
    for index, (start, stop) in enumerate(parts):
        clip_id = slug if len(parts) == 1 else f"{slug}-w{index:02d}"
        reason, detail = _reject(samples[start:stop], settings)
        if reason:
            skips.append(_skip(clip_id, source, reason, detail))
            continue
        clips.append(_write_clip(clip_id, samples[start:stop], source, start, len(parts), root))
    return {"clips": clips, "skips": skips}


def _reject(samples: Any, settings: BuildSettings) -> tuple[str, str]:
    """Reason and detail why a clip is of no use; two empty strings where it is fine."""
    seconds = len(samples) / SAMPLE_RATE
    if not len(samples):
        return "empty", "no samples"
    if seconds < settings.min_clip_seconds:
        return "too_short", f"{seconds:.3f} s"
    level = rms_db(samples)
    return ("silent", f"{level:.1f} dBFS") if level < settings.min_rms_db else ("", "")


def _write_clip(clip_id: str, samples: Any, source: ClipSource, start: int, num_windows: int, root: Path) -> dict[str, Any]:
    from nemo_desta.seed.measure import measure  # here, so that reading manifests does not need it

    text = source.text if num_windows == 1 else None  # nobody says which words fall into which window
    file = f"audio/{clip_id}.flac"
    size = write_flac(root / file, samples)
    measured = measure(samples, text, source.domain)
    return {"id": clip_id, "file": file, "size": size, "num_samples": len(samples), "start": start, "windows": num_windows, "measured": measured}


def _skip(clip_id: str, source: ClipSource, reason: str, detail: str) -> dict[str, Any]:
    return {"id": clip_id, "origin": source.origin, "reason": reason, "detail": detail}


def _check_bad(name: str, skips: Sequence[Mapping[str, Any]], total: int, max_bad_fraction: float, root: Path) -> None:
    bad = [skip for skip in skips if skip["reason"] in _BAD_REASONS]
    if skips:
        counts = ", ".join(f"{reason} {n}" for reason, n in Counter(skip["reason"] for skip in skips).most_common())
        logger.info("%s: left out %d clips (%s); see %s", name, len(skips), counts, root / "skipped.jsonl")
    if len(bad) > max_bad_fraction * total:
        some = "; ".join(f"{skip['origin']} ({skip['reason']}: {skip['detail']})" for skip in bad[:5])
        raise ValueError(f"corpus {name!r}: {len(bad)} of {total} clips are missing or undecodable, more than max_bad_fraction={max_bad_fraction}: {some}")


# --- files ----------------------------------------------------------------------------------------------------------------------------


def _read_journal(path: Path, wanted: Mapping[str, str], root: Path) -> dict[str, dict[str, Any]]:
    """Finished sources whose key still fits and whose files are whole. A damaged journal only costs time.

    The journal is rewritten without what is damaged or stale, so that appending to it is safe after a kill in the middle of a line.
    """
    if not path.is_file():
        return {}
    done: dict[str, dict[str, Any]] = {}
    damaged = False
    for line in text_lines(path, errors="replace"):
        try:
            entry = json.loads(line)
            slug, fits = entry["slug"], wanted.get(entry["slug"]) == entry["key"]
            whole = fits and all(_file_size(root / clip["file"]) == clip["size"] for clip in entry["clips"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if whole:
            done[slug] = entry
        else:
            damaged = True
    if damaged or not path.read_bytes().endswith(b"\n"):
        write_lines(path, (json.dumps(entry, ensure_ascii=False) for entry in done.values()))
    return done


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _mark_complete(root: Path, settings: BuildSettings, num_sources: int, cuts: Sequence["MonoCut"], skips: Sequence[Mapping[str, Any]]) -> None:
    splits = Counter(cut.custom["split"] for cut in cuts)
    summary = {
        "sources": num_sources,
        "clips": len(cuts),
        "hours": round(sum(cut.duration for cut in cuts) / 3600, 4),
        **{split: splits[split] for split in SPLITS},
        "domains": dict(Counter(cut.custom["domain"] for cut in cuts)),
        "skipped": dict(Counter(skip["reason"] for skip in skips)),
        "sha256": hashlib.sha256((root / CUTS_FILE).read_bytes()).hexdigest(),
    }
    write_atomic(root / ".completed", json.dumps({"fingerprint": settings.fingerprint(root.name), "root": str(root), "summary": summary}, indent=1))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


# --- cuts -----------------------------------------------------------------------------------------------------------------------------


def _cut(corpus: str, source: ClipSource, clip: Mapping[str, Any], split: str, root: Path) -> "MonoCut":
    """The cut of a finished clip (contract C1)."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    whole = clip["windows"] == 1
    duration = clip["num_samples"] / SAMPLE_RATE
    attributes = {k: v for k, v in source.attributes.items() if whole or k != "translation_en"}
    recording = Recording(
        id=clip["id"],
        sources=[AudioSource(type="file", channels=[0], source=str(root / clip["file"]))],
        sampling_rate=SAMPLE_RATE,
        num_samples=clip["num_samples"],
        duration=duration,
    )
    supervision = SupervisionSegment(
        id=clip["id"],
        recording_id=clip["id"],
        start=0.0,
        duration=duration,
        text=source.text if whole else None,
        language=source.language,
        speaker=source.speaker,
        gender=source.gender,
        custom={"duration_seconds": round(duration, 2), **clip["measured"], **attributes},
    )
    custom: dict[str, Any] = {
        "dataset": corpus,
        "domain": source.domain,
        "split": split,
        "license": source.licence,
        "attribution": source.attribution,
        "group": _group(corpus, source.group),
        "origin": source.origin,
    }
    if not whole:
        custom |= {"parent_id": re.sub(r"-w\d+$", "", clip["id"]), "parent_start": clip["start"] / SAMPLE_RATE}
    return MonoCut(id=clip["id"], start=0.0, duration=duration, channel=0, supervisions=[supervision], recording=recording, custom=custom)


def _group(corpus: str, group: str) -> str:
    """Name of a group that is unique over all corpora; a derived clip keeps the group of the clip it is made from."""
    return group if group.partition(":")[0] in REGISTRY and ":" in group else f"{corpus}:{group}"


def _cut_set(cuts: Sequence["MonoCut"]) -> "CutSet":
    from lhotse import CutSet

    return CutSet.from_cuts(cuts)


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing in a log file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal or total == 0) as bar:
        task = bar.add_task(name, total=total)
        yield lambda n: bar.advance(task, n)
