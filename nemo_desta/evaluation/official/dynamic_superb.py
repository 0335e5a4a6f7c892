"""Dynamic-SUPERB, phase 1: the metric, the cards and the list of tasks of an official checkout beside ours, on made responses.

The repository has neither data nor predictions. Every instance with a card gets made rows in the prepared layout, with labels of its kind and responses that
are right, nearly right and wrong; compared are the verdict of every item, the accuracy of every instance, what its card says, and its dimension.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_desta.evaluation.benchmarks import dynamic_superb_metrics as metrics
from nemo_desta.evaluation.benchmarks import sources
from nemo_desta.evaluation.benchmarks.base import Judged, Mode
from nemo_desta.evaluation.benchmarks.dynamic_superb import DynamicSuperb
from nemo_desta.evaluation.benchmarks.dynamic_superb_data import dimensions
from nemo_desta.evaluation.official.common import Report, commit_of, import_file

CHECKOUTS = {"dynamic_superb": "clone of dynamic-superb/dynamic-superb"}
REQUIRED = ("dynamic_superb",)
METRIC, TASKS = Path("api/metrics/accuracy.py"), Path("docs/task_list.md")
CARDS = "dynamic_superb/benchmark_tasks/*/*/instance.json"
LABELS = ("clean", "Noisy", "children_playing", "-5 dB", "10", "Straße", "ÇA VA", "İstanbul", "no", "a, b")


def check(checkouts: Mapping[str, Path]) -> Report:
    """Compare item by item and instance by instance.

    Raises:
        ValueError: the checkout lacks the metric or the cards.
    """
    root = checkouts["dynamic_superb"]
    report = Report("dynamic_superb", checkouts={"dynamic_superb": commit_of(root)})
    official = import_file(root / METRIC)
    cards = {str(card["name"]): card for card in map(sources.read_json, sorted(root.glob(CARDS)))}
    if not cards:
        raise ValueError(f"{root} has no {CARDS}: is this the right checkout?")
    dimension_of = _dimensions(root / TASKS)
    for name, card in cards.items():
        report.compare("metrics of cards", name, [metrics.ACCURACY], [metrics.canonical(str(m)) for m in card["metrics"]])
        if name in dimensions() and dimension_of:
            report.compare("dimensions of docs/task_list.md", name, dimension_of.get(_plain(name.split("_")[0])), dimensions()[name])
    lacking = sorted(set(dimensions()) - set(cards))
    report.compare("instances of phase 1 without a card", "all", [], lacking)
    report.notes.append(f"cards that are no evaluation instances of phase 1: {', '.join(sorted(set(cards) - set(dimensions()))) or 'none'}")
    _compare_scores(official, sorted(cards), report)
    return report


def responses_to(label: str) -> Iterator[str]:
    """Responses that are equal to a label, equal but for case, and different in one character or more."""
    yield from (label, label.upper(), label.lower(), label.swapcase(), label.casefold(), f" {label}", f"{label} ", f"{label}.", f"{label}\n", label[:-1], "")
    yield from (f"The answer is {label}.", label.replace("_", " "), label.replace(",", ", "), f'"{label}"')


def _compare_scores(official: Any, names: list[str], report: Report) -> None:
    """Items of all instances through the whole benchmark, with the rule of phase 1 alone."""
    with tempfile.TemporaryDirectory() as folder:
        answers = {name: list(_write(Path(folder) / name, name, n)) for n, name in enumerate(names)}
        benchmark = DynamicSuperb(classification="exact")
        for name in names:
            items = benchmark.load(Path(folder), name)
            judged = [Judged(item, said, {}, benchmark.score(item, said, {}, Mode.official)) for item, said in zip(items, answers[name], strict=True)]
            theirs = [official.get_score(said, item.gold) for item, said in zip(items, answers[name], strict=True)]
            for one, right in zip(judged, theirs, strict=True):
                report.compare("made responses", f"{one.item.id}, response {one.response!r} to {one.item.gold!r}", float(right), one.verdict.score)
            figure = benchmark.aggregate(judged, Mode.official)["groups"]["instance"][name]["value"]
            report.compare("accuracies", name, f"{100 * sum(theirs) / len(theirs):.3f}", f"{figure:.3f}")


def _write(folder: Path, name: str, number: int) -> Iterator[str]:
    """Write an instance in the prepared layout and give the responses to its rows."""
    folder.mkdir()
    pairs = [(label, said) for label in LABELS for said in responses_to(label)]
    pairs = pairs[number % 7 :]  # no two instances have one figure only because they have the same rows
    rows = {f"{name}_{n}.wav": {"file": f"{n}.wav", "instruction": "Which?", "label": label} for n, (label, _) in enumerate(pairs)}
    (folder / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")
    yield from (said for _, said in pairs)


def _dimensions(path: Path) -> dict[str, str]:
    """Task -> dimension, of the table in the repository's documentation; empty where it has none."""
    if not path.is_file():
        return {}
    rows = re.findall(r"^\|?\s*([A-Z]\w+)\s*\|\s*([^|]+?)\s*\|[^|]*\|\s*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {_plain(task): dimension for dimension, task in rows if dimension != "Dimension"}


def _plain(task: str) -> str:
    """A task's name without marks, in lower case: "Speech-Text Matching" is SpeechTextMatching."""
    return re.sub(r"\W", "", task).lower()
