"""What a set of answers is like: lengths and refusals by prompt, and whether the backbone says the same thing when it is asked again."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from nemo_desta.generation.comparison import answers_comparison
from nemo_desta.generation.engines.base import Completion, Engine
from nemo_desta.generation.filters import Vocabulary, gives, refusal
from nemo_desta.generation.plan import TargetRow
from nemo_desta.seed.matching import content_words

Reasons = Mapping[str, str | None]


def prompt_statistics(plan: Sequence[TargetRow], answers: Mapping[str, Completion], reasons: Reasons) -> dict[str, Any]:
    """Lengths, refusals and yields: overall, by kind, and by prompt (worst yield first).

    Returns:
        ``overall`` and ``by_kind[kind]``: `_figures`; ``by_prompt``: the same with ``prompt_id``, ``prompt``, ``kind``, ``attribute`` and the ``counts`` that
        they come from.
    """
    prompts: dict[str, list[TargetRow]] = defaultdict(list)
    for row in plan:
        prompts[row.prompt.id].append(row)
    return _report([{**_named(rows), "counts": _counts(rows, answers, reasons)} for rows in prompts.values()])


def merged_statistics(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistics of a whole from those of its parts: the same as `prompt_statistics` of all rows."""
    known: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for part in parts:
        for entry in part["by_prompt"]:
            known[entry["prompt_id"]].append(entry)
    named = {key: {name: entries[0][name] for name in ("prompt_id", "kind", "attribute")} for key, entries in known.items()}
    texts = {key: min(entry["prompt"] for entry in entries) for key, entries in known.items()}
    return _report([{**named[key], "prompt": texts[key], "counts": _sum([e["counts"] for e in entries])} for key, entries in known.items()])


def _named(rows: Sequence[TargetRow]) -> dict[str, Any]:
    prompt = rows[0].prompt  # the text of a comparison may name another value in every row
    return {"prompt_id": prompt.id, "kind": prompt.kind, "attribute": prompt.attribute, "prompt": min(row.prompt.text for row in rows)}


def _report(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    listed = [{**entry, **_figures(entry["counts"])} for entry in entries]
    kinds = {kind: _sum([e["counts"] for e in entries if e["kind"] == kind]) for kind in sorted({e["kind"] for e in entries})}
    return {
        "overall": _figures(_sum([entry["counts"] for entry in entries])),
        "by_kind": {kind: _figures(counts) for kind, counts in kinds.items()},
        "by_prompt": sorted(listed, key=lambda entry: (entry["yield"], -entry["asked"], entry["prompt_id"])),
    }


def _counts(rows: Sequence[TargetRow], answers: Mapping[str, Completion], reasons: Reasons) -> dict[str, Any]:
    """Plain counts of some rows, which can be added; keys of lengths are text, as JSON has them."""
    why = Counter(reason for row in rows if (reason := reasons[row.row_id]) is not None)
    return {
        "asked": len(rows),
        "kept": sum(reasons[row.row_id] is None for row in rows),
        "refused": sum(bool(refusal(row, answers[row.row_id], {})) for row in rows),
        "tokens": dict(Counter(str(answers[row.row_id].num_tokens) for row in rows)),
        "words": dict(Counter(str(len(answers[row.row_id].text.split())) for row in rows)),
        "rejected": dict(why),
    }


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {name: sum(part[name] for part in parts) for name in ("asked", "kept", "refused")}
    for name in ("tokens", "words", "rejected"):
        added: Counter[str] = Counter()
        for part in parts:
            added.update(part[name])
        total[name] = dict(added)
    return total


def _figures(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Of some rows: asked, kept, yield; refused (share, whatever other filter was first); tokens and words of all answers; reasons of the rejected."""
    asked = counts["asked"]
    return {
        "asked": asked,
        "kept": counts["kept"],
        "yield": round(counts["kept"] / asked, 4) if asked else 0.0,
        "refused": round(counts["refused"] / asked, 4) if asked else 0.0,
        "tokens": _quantiles(counts["tokens"]),
        "words": _quantiles(counts["words"]),
        "rejected": dict(sorted(counts["rejected"].items(), key=lambda item: (-item[1], item[0]))),
    }


def _quantiles(counts: Mapping[str, int]) -> dict[str, float]:
    if not counts:
        return {}
    values = np.repeat([int(value) for value in counts], list(counts.values()))
    names = ("min", "p10", "median", "p90", "max")
    return dict(zip(names, (round(float(q), 1) for q in np.quantile(values, [0, 0.1, 0.5, 0.9, 1])), strict=True))


def consistency(
    rows: Sequence[TargetRow], engine: Engine, samples: int, values: Vocabulary, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Ask every row several times and see whether the answers agree.

    Args:
        rows: a sample of the plan.
        engine: with a temperature above 0, else all answers are one.
        samples: answers a row, each with a seed of its own.
        values: attribute -> all its values, for "gives the gold value".
        progress: called with the number of rows done.

    Returns:
        ``attribute_rows``: ``correct`` (share of the answers that give the seed's value), ``unanimous`` (share of the rows whose answers are all right or all
        wrong), ``always_correct``; ``open_rows``: ``agreement`` (mean Jaccard index of the content words of two answers); ``rows``: each with its answers.

    Raises:
        ValueError: fewer than two samples, or no rows.
    """
    if samples < 2 or not rows:
        raise ValueError(f"self-consistency needs rows and at least 2 samples, got {len(rows)} rows and {samples} samples")
    records = []
    for start in range(0, len(rows), 16):
        part = rows[start : start + 16]
        prompts = [row.text for row in part for _ in range(samples)]
        answers = engine.generate(prompts, [f"{row.row_id}#{i}" for row in part for i in range(samples)])
        for n, row in enumerate(part):
            records.append(_judged(row, [a.text for a in answers[n * samples : (n + 1) * samples]], values))
        progress(len(records))
    return {"samples": samples, **_agreement(records), "rows": records}


def _judged(row: TargetRow, texts: Sequence[str], values: Vocabulary) -> dict[str, Any]:
    attribute = row.prompt.attribute
    record: dict[str, Any] = {"row_id": row.row_id, "prompt": row.prompt.text, "attribute": attribute, "answers": list(texts)}
    if row.gold is not None:
        return record | {"gold": row.gold, "right": [answers_comparison(row, text) for text in texts]}
    if attribute is not None:
        gold = row.attributes[attribute]
        return record | {"gold": gold, "right": [gives(text, attribute, gold, values.get(attribute, ())) for text in texts]}
    return record | {"agreement": _jaccard(texts)}


def _jaccard(texts: Sequence[str]) -> float:
    """Mean over all pairs; two texts without content words agree."""
    bags = [content_words(text) for text in texts]
    return float(np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(bags, 2)]))


def _agreement(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    records = list(records)
    judged = [record["right"] for record in records if "right" in record]
    opened = [record["agreement"] for record in records if "agreement" in record]
    out: dict[str, Any] = {"attribute_rows": {"rows": len(judged)}, "open_rows": {"rows": len(opened)}}
    if judged:
        right = [verdict for verdicts in judged for verdict in verdicts]
        unanimous = [all(verdicts) or not any(verdicts) for verdicts in judged]
        out["attribute_rows"] |= {
            "correct": float(np.mean(right)),
            "unanimous": float(np.mean(unanimous)),
            "always_correct": float(np.mean([all(v) for v in judged])),
        }
    if opened:
        out["open_rows"] |= {"agreement": float(np.mean(opened))}
    return out
