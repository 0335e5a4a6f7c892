"""Ask a model all questions of a benchmark: batched, journaled, resumable; the only place of the evaluation that calls a model."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nemo_desta.evaluation.benchmarks.base import Benchmark, Item
from nemo_desta.evaluation.journal import Prediction, PredictionJournal
from nemo_desta.evaluation.model import AudioModel, Conversation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """How the questions are asked; always greedy."""

    max_new_tokens: int = 32
    batch_rows: int = 32


@dataclass(frozen=True)
class Request:
    """One distinct conversation, and the items and conditions that it answers.

    Decoding is greedy, so equal conversations have equal answers and are asked once. Where all items of a track share one question, the shuffled row is
    a permutation of the answers with audio, and the row without audio is one answer.
    """

    messages: Conversation
    uses: tuple[tuple[Item, str], ...]


def run_fingerprint(checkpoint: Path, settings: Mapping[str, Any]) -> str:
    """12 hex digits over a checkpoint's config and weights and the settings of the run.

    Raises:
        ValueError: the directory holds no checkpoint (contract C4).
    """
    files = [*sorted(checkpoint.glob("config.json")), *sorted(checkpoint.glob("*.safetensors"))]
    if not files:
        raise ValueError(f"no checkpoint in {str(checkpoint)!r}: train first, or name a directory with config.json and model.safetensors")
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def plain_messages(messages: Conversation) -> list[dict[str, Any]]:
    """The conversation as plain JSON: a cut becomes its id, a path a string."""
    return [{**m, "audios": [{**a, "audio": _audio_name(a["audio"])} for a in m["audios"]]} if "audios" in m else dict(m) for m in messages]


def _audio_name(audio: Any) -> str:
    return str(getattr(audio, "id", audio))


def _audios(messages: Conversation) -> list[dict[str, Any]]:
    return [audio for m in messages for audio in m.get("audios", [])]


def _duration(request: Request) -> float:
    return sum(float(getattr(a["audio"], "duration", 0.0)) for a in _audios(request.messages))


def make_batches(benchmark: Benchmark, batch_rows: int) -> list[list[Request]]:
    """All distinct conversations in batches: those with audio first, clips of like length together.

    The batches depend on the benchmark alone, not on what was answered before, so that a resumed run asks the same batches and, with rounding that depends
    on the padding, gives the same answers.
    """
    conversations: dict[str, Conversation] = {}
    uses: dict[str, list[tuple[Item, str]]] = {}
    for condition in benchmark.conditions:
        for item in benchmark.load():
            messages = benchmark.messages(item, condition)
            key = json.dumps(plain_messages(messages), ensure_ascii=False)
            conversations.setdefault(key, messages)
            uses.setdefault(key, []).append((item, condition))
    requests = [Request(messages, tuple(uses[key])) for key, messages in conversations.items()]
    # The longest first: a batch that does not fit in memory fails at once. Questions about the same clip stand together, so that a model that looks for
    # equal clips in a batch need not hear one twice.
    requests.sort(key=lambda r: (-_duration(r), [_audio_name(a["audio"]) for a in _audios(r.messages)]))
    batches = []
    for heard in (True, False):
        group = [r for r in requests if bool(_audios(r.messages)) == heard]
        batches += [group[i : i + batch_rows] for i in range(0, len(group), batch_rows)]
    return batches


def run_benchmark(
    benchmark: Benchmark, load_model: Callable[[], AudioModel], journal_path: Path, *, run: str, settings: GenerationSettings, progress: bool = True
) -> list[Prediction]:
    """Answer what the journal does not hold yet.

    Args:
        load_model: called once, and only if there is something to ask.
        journal_path: JSONL, appended a batch at a time.
        run: fingerprint of model and settings (`run_fingerprint`).
        progress: show a bar with items/s and time left.

    Returns:
        One prediction for each item and condition, in the order of the benchmark.

    Raises:
        ValueError: the model answered fewer or more conversations than it was asked.
    """
    journal = PredictionJournal(journal_path, run)
    batches = make_batches(benchmark, settings.batch_rows)
    _drop_changed(journal, batches)
    pending = [batch for batch in batches if any(key not in journal.rows for r in batch for key in _keys(r))]
    total, left = sum(map(len, batches)), sum(map(len, pending))
    logger.info("%s: %d distinct conversations, %d of them answered in %s", benchmark.name, total, total - left, journal_path)
    if pending:
        _answer(benchmark, load_model(), journal, pending, total, settings, progress)
    return [journal.rows[(item.id, condition)] for item in benchmark.load() for condition in benchmark.conditions]


def _keys(request: Request) -> list[tuple[str, str]]:
    return [(item.id, condition) for item, condition in request.uses]


def _drop_changed(journal: PredictionJournal, batches: Sequence[Sequence[Request]]) -> None:
    """Forget stored responses to other questions (the corpus or the wording changed under the same ids), on disk too."""
    asked = {key: plain_messages(r.messages) for batch in batches for r in batch for key in _keys(r)}
    kept = [row for key, row in journal.rows.items() if row.messages == asked.get(key)]
    if len(kept) < len(journal.rows):
        logger.warning("%d stored responses answer questions that are asked no more: they are dropped", len(journal.rows) - len(kept))
        journal.rewrite(kept)


def _answer(
    benchmark: Benchmark, model: AudioModel, journal: PredictionJournal, pending: list[list[Request]], total: int, settings: GenerationSettings, progress: bool
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(benchmark.name, total=total, completed=total - sum(map(len, pending)))
        for batch in pending:
            outputs = model.generate([r.messages for r in batch], max_new_tokens=settings.max_new_tokens, do_sample=False)
            if len(outputs) != len(batch):
                raise ValueError(f"the model gave {len(outputs)} responses to {len(batch)} conversations")
            journal.append([row for r, out in zip(batch, outputs, strict=True) for row in _predictions(benchmark, r, out.text, journal.run)])
            bar.advance(task, len(batch))


def _predictions(benchmark: Benchmark, request: Request, text: str, run: str) -> list[Prediction]:
    messages = plain_messages(request.messages)
    return [Prediction(run, item.id, condition, messages, text, benchmark.extract(item, text), item.gold) for item, condition in request.uses]
