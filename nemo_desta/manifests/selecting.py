"""Putting manifests together, taking a part of one, and looking at one cut."""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_desta.jsonl import DAMAGED_GZIP
from nemo_desta.manifests.audio_hash import stretch_of
from nemo_desta.manifests.records import Record, attributes, audio_path, custom, further_of, rows_of, source_of
from nemo_desta.manifests.sinks import Sink
from nemo_desta.manifests.sources import Problems, lines, manifest_files, records
from nemo_desta.manifests.splitting import order_key
from nemo_desta.manifests.store import IndexedStore, is_store
from nemo_desta.manifests.validate import text_hash

ON_DUPLICATE = ("error", "skip", "rename")


def merge(paths: Sequence[Path], sink: Sink, *, on_duplicate: str = "error", problems: Problems | None = None) -> dict[str, int]:
    """Write manifests one after another.

    Args:
        on_duplicate: what to do about an id that came before: "error", "skip" the later cut, or "rename" it to ``<id>~2``.

    Returns:
        ``{"cuts", "duplicates"}``.

    Raises:
        ValueError: an id came twice and `on_duplicate` is "error".
    """
    if on_duplicate not in ON_DUPLICATE:
        raise ValueError(f"on_duplicate={on_duplicate!r}: it is one of {', '.join(ON_DUPLICATE)}")
    problems = problems if problems is not None else Problems()
    seen: set[int] = set()
    duplicates = 0
    for path in paths:
        for record in records(path, problems):
            if text_hash(record["id"]) in seen:
                duplicates += 1
                if on_duplicate == "error":
                    raise ValueError(f"{path}: the id {record['id']!r} came before: take --on-duplicate skip or rename")
                if on_duplicate == "skip":
                    continue
                record = _renamed(record, seen)
            seen.add(text_hash(record["id"]))
            sink.write(record)
    return {"cuts": sink.count, "duplicates": duplicates}


def _renamed(record: Record, seen: set[int]) -> Record:
    n = 2
    while text_hash(f"{record['id']}~{n}") in seen:
        n += 1
    supervisions = [{**s, "id": f"{s['id']}~{n}"} for s in record.get("supervisions") or []]
    return {**record, "id": f"{record['id']}~{n}", "supervisions": supervisions}


def sample(
    path: Path, sink: Sink, *, number: int | None = None, fraction: float | None = None, per: str | None = None, seed: int = 0, problems: Problems | None = None
) -> int:
    """Write a random part, in the order of the manifest.

    Who is drawn depends on the seed and the ids alone: a sample of a longer manifest, or of the same one in another order, draws the same cuts as long as they
    are among the first, and a smaller sample is a part of a larger one.

    Args:
        number: of cuts; with `per`, of every value.
        fraction: of the cuts, instead of `number`.
        per: name of a field of the cut's ``custom`` (dataset, domain, ...).

    Returns:
        Cuts written.

    Raises:
        ValueError: not exactly one of `number` and `fraction`, one out of range, or a cut without the field of `per`.
    """
    if (number is None) == (fraction is None):
        raise ValueError("give either a number of cuts or a fraction")
    if (number is not None and number < 1) or (fraction is not None and not 0 < fraction <= 1):
        raise ValueError(f"a sample of {number if number is not None else fraction}: the number is at least 1, the fraction above 0 and at most 1")
    problems = problems if problems is not None else Problems()
    if fraction is not None and per is not None:
        raise ValueError(f"a fraction is drawn of everything, not per {per}: give a number instead")
    if fraction is not None:
        limit = int(fraction * 2**64)
        for record in records(path, problems):
            if order_key(seed, record["id"]) < limit:
                sink.write(record)
        return sink.count
    assert number is not None
    chosen = _drawn(path, number, per, seed)
    for i, record in enumerate(records(path, problems)):
        if i in chosen:
            sink.write(record)
    return sink.count


def _drawn(path: Path, number: int, per: str | None, seed: int) -> set[int]:
    """Numbers of the cuts with the smallest keys, of every stratum."""
    heaps: dict[str, list[tuple[int, int]]] = defaultdict(list)  # largest key first
    for i, record in enumerate(records(path, Problems())):
        if per and custom(record, per) is None:
            raise ValueError(f"cut {record['id']} has no {per!r} in its custom: it has {', '.join(sorted(record.get('custom') or {})) or 'nothing'}")
        heap = heaps[str(custom(record, per)) if per else ""]
        entry = (-order_key(seed, record["id"]), -i)
        if len(heap) < number:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return {-i for heap in heaps.values() for _, i in heap}


def find(path: Path, which: str, problems: Problems | None = None) -> tuple[Record, str]:
    """One cut and where it stands.

    Args:
        which: a cut's id, a row's id, or ``#17`` for the 18th cut.

    Raises:
        ValueError: there is none.
    """
    problems = problems if problems is not None else Problems()
    if which.startswith("#") and which[1:].isdigit():
        number = int(which[1:])
        if is_store(path):
            store = IndexedStore(path)
            if number < len(store):
                return store.record(number), f"{path}, cut {number} of {len(store)}"
        for i, record in enumerate(records(path, problems)):
            if i == number:
                return record, f"{path}, cut {i}"
        raise ValueError(f"{path} has no cut {which}: the first is #0")
    for file, number, line in _lines_with(path, which, problems):
        from nemo_desta.manifests.records import check_record, decode

        try:
            record = check_record(decode(line))
        except ValueError:  # also msgspec's errors
            continue
        if record["id"] == which or any(s.get("id") == which for s in record.get("supervisions") or ()):
            return record, f"{file}, line {number}"
    lost = f" ({problems.sentences[0]})" if len(problems) else ""
    raise ValueError(f"{path} has neither a cut nor a row {which!r}{lost}: give an id as it stands in the manifest, or #NUMBER")


def _lines_with(path: Path, text: str, problems: Problems) -> Iterator[tuple[Path, int, bytes]]:
    wanted = text.encode()
    for file in manifest_files(path):
        number = 0
        try:
            for number, line in enumerate(lines(file), 1):
                if wanted in line:
                    yield file, number, line
        except DAMAGED_GZIP as error:
            problems.add("damaged file", f"{file}: cut off or damaged after line {number} ({error}): copy it anew, or repeat the step that wrote it")


def describe_cut(record: Record, where: str) -> dict[str, Any]:
    """What there is to know of one cut: attributes, seed, prompts, responses, where it came from."""
    stretch, recording, own = stretch_of(record), record.get("recording") or {}, dict(record.get("custom") or {})
    return {
        "id": record["id"],
        "manifest": where,
        "audio": {
            "file": str(audio_path(record)) if audio_path(record) else None,
            "start": record.get("start", 0),
            "seconds": record["duration"],
            "rate": recording.get("sampling_rate"),
            "samples": stretch.samples if stretch else None,
        },
        "transcript": source_of(record).get("text"),
        "attributes": attributes(record),
        "seed_description": own.pop("seed_description", None),
        "origin": own,
        "rows": [_describe_row(row) for row in rows_of(record)],
    }


def _describe_row(row: Record) -> dict[str, Any]:
    own = row["custom"]
    kept = ("prompt", "prompt_id", "prompt_kind", "attribute", "messages", "generator")
    origin = {k: v for k, v in (own.get("aqa5m") or {}).items() if k != "row"}
    further = [{"id": c.get("id"), "file": str(audio_path(c) or ""), "start": c.get("start", 0), "seconds": c.get("duration")} for c in further_of(row)]
    asked = {"id": row.get("id"), **{k: own[k] for k in kept if own.get(k) is not None}, **({"further_clips": further} if further else {})}
    return {**asked, "response": row.get("text"), **({"aqa5m": origin} if origin else {})}
