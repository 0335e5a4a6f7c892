"""A page on which a person listens to clips, reads prompt and answer, and accepts or rejects; and what becomes of the verdicts.

Verdicts lie in ``targets/review.jsonl``, one line each, the last one of a row counts. The next run of target generation obeys them (no answer is asked anew): a
rejected row leaves the targets whatever the filters say, an accepted one stays although a filter objected.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile
from lhotse.cut import Cut

from nemo_desta.corpora.manifests import read_cuts, write_atomic
from nemo_desta.data.supervision import further_clips, self_generated
from nemo_desta.generation.written import written
from nemo_desta.jsonl import text_lines

logger = logging.getLogger(__name__)

ACCEPT, REJECT, CLEAR = "accept", "reject", "clear"
REASON = "review"  # under which a rejected row is counted
SHORT_WORDS, LONG_WORDS = 2, 120  # answers of fewer or more words are flagged
FILE = "review.jsonl"


def read_verdicts(path: Path) -> dict[str, str]:
    """Row id -> `ACCEPT` or `REJECT`. Later lines win, `CLEAR` takes a verdict back, torn lines are skipped."""
    verdicts: dict[str, str] = {}
    for line in text_lines(path, errors="replace") if path.exists() else []:
        try:
            entry = json.loads(line)
            row_id, verdict = str(entry["row_id"]), entry["verdict"]
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: a line that is no verdict is skipped: %s", path, line[:80])
            continue
        if verdict in (ACCEPT, REJECT):
            verdicts[row_id] = verdict
        elif verdict == CLEAR:
            verdicts.pop(row_id, None)
    return verdicts


def add_verdict(path: Path, row_id: str, verdict: str, note: str = "") -> None:
    """Append one verdict.

    Raises:
        ValueError: no such verdict.
    """
    if verdict not in (ACCEPT, REJECT, CLEAR):
        raise ValueError(f"verdict {verdict!r} is none of {ACCEPT}, {REJECT}, {CLEAR}")
    entry = {"row_id": row_id, "verdict": verdict, "note": note[:1000], "time": datetime.now(UTC).isoformat(timespec="seconds")}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def overrule(reasons: dict[str, str | None], verdicts: Mapping[str, str]) -> dict[str, str | None]:
    """The filters' reasons, where nobody has listened, and the verdicts, where somebody has."""
    judged = {row: None if verdicts[row] == ACCEPT else REASON for row in reasons if row in verdicts}
    return {**reasons, **judged}


def review_items(targets: Path, corpus: Path, count: int, seed: int = 0, rejected_share: float = 0.4) -> list[dict[str, Any]]:
    """A balanced sample of kept and rejected rows: in turn over (domain, kind) for the former, over the filters for the latter.

    Args:
        targets: folder of a finished run of target generation; of one on Ray some parts are looked at (see `written`).
        corpus: manifest of its cuts, for clips without a target.
        count: rows in all.

    Raises:
        FileNotFoundError: no targets there.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for one in written(targets, corpus):
        kept += [_kept_item(cut, row) for cut in read_cuts(one.kept) for row in self_generated(cut)]
        lines = one.rejected_lines()
        cuts = one.cuts(name for line in lines for name in (line["cut_id"], *line.get("other_clips", ())))
        dropped += [_rejected_item(line, cuts) for line in lines if line["cut_id"] in cuts]
    bad = min(len(dropped), round(count * rejected_share))
    chosen = _in_turn(kept, lambda item: (item["domain"], item["kind"]), count - bad, seed)
    return [*chosen, *_in_turn(dropped, lambda item: item["flags"][0], bad, seed)]


def _item(cut: Cut, row_id: str, **values: Any) -> dict[str, Any]:
    custom = getattr(cut, "custom", None) or {}
    source = cut.supervisions[0] if cut.supervisions else None
    about = {"dataset": custom.get("dataset"), "domain": custom.get("domain"), "transcript": source.text if source else None, "seconds": round(cut.duration, 2)}
    return {"row_id": row_id, "cut_id": cut.id, "cut": cut, **about, **values}


def _kept_item(cut: Cut, row: Any) -> dict[str, Any]:
    custom = row.custom
    generator = custom.get("generator") or {}
    seed = generator.get("seed_text") or (cut.custom or {}).get("seed_description") or ""
    origin = f"{generator.get('model')} ({generator.get('engine')}, temperature {generator.get('temperature')}, {generator.get('finish_reason')})"
    others = further_clips(row, cut)
    kind = (None if others else custom.get("attribute")) or custom.get("prompt_kind")
    values = {"prompt": custom.get("prompt"), "kind": kind, "seed": seed, "origin": origin, "others": others}
    return _item(cut, row.id, response=row.text or "", flags=flags(row.text or "", None), **values)


def _rejected_item(line: Mapping[str, Any], cuts: Mapping[str, Cut]) -> dict[str, Any]:
    cut, others = cuts[line["cut_id"]], [cuts[name] for name in line.get("other_clips", ()) if name in cuts]
    kind = (None if others else line["attribute"]) or line["kind"]
    values = {"prompt": line["prompt"], "kind": kind, "seed": line["seed"], "origin": "rejected", "others": others}
    return _item(cut, line["row_id"], response=line["text"], flags=flags(line["text"], line["reason"]), **values)


def flags(response: str, reason: str | None) -> list[str]:
    """What to look at: the filter that objected, very short and very long answers, answers that hold the audio tags."""
    words = len(response.split())
    found = [reason] if reason else []
    found += ["short"] if words < SHORT_WORDS else ["long"] if words > LONG_WORDS else []
    return found


def _in_turn(items: Iterable[dict[str, Any]], group: Any, count: int, seed: int) -> list[dict[str, Any]]:
    """So many items, dealt over the groups; within a group in the order of a hash."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for item in sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item['row_id']}".encode()).digest()):
        groups[group(item)].append(item)
    queues = [groups[key] for key in sorted(groups, key=str)]
    chosen: list[dict[str, Any]] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return chosen[:count]


def write_page(items: Sequence[Mapping[str, Any]], folder: Path, title: str, verdicts: Mapping[str, str]) -> Path:
    """Write ``index.html``, ``items.json`` and ``audio/*.flac``; a clip that cannot be decoded is shown without sound.

    Returns:
        The page.
    """
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    shown = []
    for item in items:
        sounds = [_write_audio(cut, folder) for cut in (item["cut"], *item["others"])]
        values = {k: v for k, v in item.items() if k not in ("cut", "others")}
        shown.append({**values, "audios": sounds, "verdict": verdicts.get(item["row_id"])})
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("pages"))
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template("review.html.j2").render(title=title, items=shown)
    write_atomic(folder / "items.json", json.dumps([item["row_id"] for item in shown]))
    write_atomic(folder / "index.html", page)
    return folder / "index.html"


def _write_audio(cut: Cut, folder: Path) -> str | None:
    """The clip as a file of the page; its name relative to the folder, None where it cannot be decoded."""
    name = f"audio/{hashlib.sha256(cut.id.encode()).hexdigest()[:16]}.flac"
    path = folder / name
    if path.exists():
        return name
    try:
        samples = np.asarray(cut.load_audio(), dtype=np.float32).mean(axis=0)
        soundfile.write(path, np.clip(samples, -1.0, 1.0), cut.sampling_rate)
    except Exception as error:  # Lhotse's backends raise many kinds; a clip without sound can still be read
        logger.warning("clip %s cannot be played: %s", cut.id, error)
        return None
    return name
