"""What a prepared corpus holds, and whether its training and test parts are apart.

    python tools/corpus_report.py runs/mini/corpus [--output runs/mini/corpus/report] [--jobs 2] [--floors lean]

Prints clips, hours and attribute values by split and domain, writes ``report.json`` and the figures ``hours.png``, ``durations.png`` and
``attributes.png``, and looks for the same audio (hash of the decoded samples), for nearly the same sound (cross-correlation) and for nearly the
same transcript in both splits.

Exit code: 0; 1 when the same audio, the same group (speaker, source file) or a sound with a correlation of 0.95 is in both splits, or when the corpus
has fewer clips than ``--floors`` asks for; 2 when there is no corpus to read.
"""

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from lhotse import MonoCut
from rich.console import Console
from rich.table import Table

from nemo_desta.corpora import REGISTRY
from nemo_desta.corpora.manifests import read_cuts, write_atomic
from nemo_desta.corpora.splits import SPLITS

Cuts = Mapping[str, Sequence[MonoCut]]  # by split

MAX_VALUES = 40  # an attribute with more values than this is described by their number only
SIMILAR = 0.7  # Jaccard index of word pairs from which on two transcripts count as nearly the same
NEAR, SAME_SOUND = 0.85, 0.95  # peak of the normalised cross-correlation: from here on reported, and an error
_SIMILAR_SECONDS = 0.8  # ratio of durations: clips that differ more are not compared
_SYNTHETIC = ("controlled_speech",)  # speech that no human spoke, besides the derived corpora
FLOORS = {"lean": {"human speech": 9_000, "sound": 450, "music": 300}}  # clips that a tier must have
_MIN_WORDS = 4  # shorter transcripts ("four", "press one") repeat in any corpus and say nothing about a leak
_COMMON = 200  # a word pair that occurs in more test transcripts than this does not help to find candidates
_EDGES = (0, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30)  # seconds


def load(corpus_dir: Path) -> tuple[dict[str, list[MonoCut]], list[str]]:
    """Cuts by split, and what was wrong with their manifests.

    Raises:
        FileNotFoundError: The folder holds no manifest of a split.
    """
    problems: list[str] = []
    paths = {split: corpus_dir / f"cuts_{split}.jsonl.gz" for split in SPLITS}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no {' and no '.join(missing)}: run examples/prepare_corpus.py first")
    return {split: list(read_cuts(path, problems=problems)) for split, path in paths.items()}, problems


def attributes(cut: MonoCut) -> dict[str, str]:
    """The attributes of a cut that have words as values (numbers, transcripts and translations are no categories)."""
    source = cut.supervisions[0]
    named = {"language": source.language, "gender": source.gender, **(source.custom or {})}
    return {key: value for key, value in named.items() if isinstance(value, str) and key not in ("translation_en", "chords")}


def statistics(cuts: Cuts) -> dict[str, Any]:
    """Clips, hours, durations, corpora and attribute values by split and domain."""
    result: dict[str, Any] = {}
    for split, members in cuts.items():
        for domain in sorted({cut.custom["domain"] for cut in members}):
            chosen = [cut for cut in members if cut.custom["domain"] == domain]
            seconds = np.array([cut.duration for cut in chosen])
            values: dict[str, Counter[str]] = defaultdict(Counter)
            for cut in chosen:
                for key, value in attributes(cut).items():
                    values[key][value] += 1
            result.setdefault(split, {})[domain] = {
                "clips": len(chosen),
                "hours": round(float(seconds.sum()) / 3600, 4),
                "groups": len({cut.custom["group"] for cut in chosen}),
                "seconds": {"median": round(float(np.median(seconds)), 2), "longest": round(float(seconds.max()), 2)},
                "histogram": dict(zip((f"<{edge}" for edge in _EDGES[1:]), np.histogram(seconds, _EDGES)[0].tolist(), strict=True)),
                "corpora": dict(Counter(cut.custom["dataset"] for cut in chosen).most_common()),
                "attributes": {key: _short(counts) for key, counts in sorted(values.items())},
            }
    return result


def _short(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common()) if len(counts) <= MAX_VALUES else {"(different values)": len(counts), "(clips)": counts.total()}


# --- duplicates -----------------------------------------------------------------------------------------------------------------------


def sample_hash(place: tuple[str, int, int]) -> str:
    """Hash of a clip's decoded samples.

    Args:
        place: Audio file, first sample, number of samples.

    Returns:
        A hexadecimal digest, or ``"unreadable: <why>"``.
    """
    file, start, count = place
    try:
        samples, _ = sf.read(file, start=start, frames=count, dtype="int16")
    except (sf.LibsndfileError, OSError) as error:
        return f"unreadable: {error}"
    return hashlib.sha256(samples.tobytes()).hexdigest()


def _place(cut: MonoCut) -> tuple[str, int, int]:
    rate = cut.sampling_rate
    return cut.recording.sources[0].source, round(cut.start * rate), round(cut.duration * rate)


def audio_duplicates(cuts: Cuts, jobs: int) -> dict[str, Any]:
    """Clips with the same samples: ``{"across_splits": [[ids], ...], "within_split": n, "unreadable": [...]}``."""
    clips = [(split, cut) for split, members in cuts.items() for cut in members]
    places = [_place(cut) for _, cut in clips]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            hashes = list(pool.map(sample_hash, places, chunksize=64))
    else:
        hashes = [sample_hash(place) for place in places]
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for (split, cut), digest in zip(clips, hashes, strict=True):
        same[digest].append((split, cut.id))
    unreadable = [f"{i} ({digest})" for digest, members in same.items() if digest.startswith("unreadable") for _, i in members]
    several = [members for digest, members in same.items() if len(members) > 1 and not digest.startswith("unreadable")]
    across = [[i for _, i in members] for members in several if len({split for split, _ in members}) > 1]
    return {"across_splits": across, "within_split": len(several) - len(across), "unreadable": unreadable}


def similar_sounds(cuts: Cuts) -> list[dict[str, Any]]:
    """Clips of environmental sound in both splits that are nearly the same: the peak of their normalised cross-correlation is at least `NEAR`.

    Level, polarity and an offset do not matter. Clips whose durations differ by more than a fifth are not compared.

    Returns:
        ``{"test", "train", "correlation"}``, most similar first.
    """
    clips = {split: [(cut.id, _samples(cut)) for cut in members if cut.custom["domain"] == "sound"] for split, members in cuts.items()}
    pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by length of the transform
    for i, (_, test) in enumerate(clips["test"]):
        for j, (_, train) in enumerate(clips["train"]):
            shorter, longer = sorted((len(test), len(train)))
            if shorter > 0 and shorter >= _SIMILAR_SECONDS * longer:
                pairs[1 << (shorter + longer - 2).bit_length()].append((i, j))
    found = []
    for size, members in pairs.items():
        spectra = {("train", j): np.fft.rfft(clips["train"][j][1], size) for j in {j for _, j in members}}
        for i, j in sorted(members):  # the spectrum of a test clip is needed for a run of pairs
            if ("test", i) not in spectra:
                spectra = {key: value for key, value in spectra.items() if key[0] == "train"} | {("test", i): np.fft.rfft(clips["test"][i][1], size)}
            score = float(np.abs(np.fft.irfft(spectra["test", i] * np.conj(spectra["train", j]), size)).max())
            if score >= NEAR:
                found.append({"test": clips["test"][i][0], "train": clips["train"][j][0], "correlation": round(score, 3)})
    return sorted(found, key=lambda pair: -pair["correlation"])


def _samples(cut: MonoCut) -> np.ndarray:
    """Samples of a clip with unit energy; none where the file cannot be read (`audio_duplicates` lists it)."""
    file, start, count = _place(cut)
    try:
        samples, _ = sf.read(file, start=start, frames=count, dtype="float32")
    except (sf.LibsndfileError, OSError):
        return np.zeros(0, np.float32)
    energy = float(np.linalg.norm(samples))
    return samples / energy if energy > 0.0 else np.zeros(0, np.float32)


def below_floors(cuts: Cuts, tier: str) -> list[str]:
    """One sentence for each kind of clip of which a corpus has fewer than the tier promises."""
    artificial = {*_SYNTHETIC, *(name for name, recipe in REGISTRY.items() if recipe.derived)}
    members = [cut for split in cuts.values() for cut in split]
    have = Counter(cut.custom["domain"] for cut in members)
    have["human speech"] = sum(cut.custom["domain"] == "speech" and cut.custom["dataset"] not in artificial for cut in members)
    return [f"{kind}: {have[kind]} clips, fewer than the {floor} of the {tier} tier" for kind, floor in FLOORS[tier].items() if have[kind] < floor]


def words(text: str | None) -> tuple[str, ...]:
    """Transcript in lower case without punctuation, as words."""
    return tuple(re.findall(r"\w+", (text or "").casefold()))


def _pairs(tokens: Sequence[str]) -> frozenset[tuple[str, str]]:
    return frozenset(pairwise(tokens))


def transcript_duplicates(cuts: Cuts) -> list[dict[str, Any]]:
    """Transcripts of the test part that occur, word for word or nearly, in the training part.

    Candidates share a word pair that is not common; they are compared by the Jaccard index of their word pairs.

    Returns:
        ``{"test", "train", "similarity", "text"}`` of the most similar training clip of each test clip that has one, most similar first.
    """
    test = [(cut, words(cut.supervisions[0].text)) for cut in cuts["test"]]
    test_pairs = {i: _pairs(tokens) for i, (_, tokens) in enumerate(test) if len(tokens) >= _MIN_WORDS}
    index: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, pairs in test_pairs.items():
        for pair in pairs:
            index[pair].append(i)
    best: dict[int, tuple[float, MonoCut]] = {}
    for cut in cuts["train"]:
        tokens = words(cut.supervisions[0].text)
        pairs = _pairs(tokens)
        if len(tokens) < _MIN_WORDS:
            continue
        for i in {i for pair in pairs if len(index.get(pair, ())) <= _COMMON for i in index.get(pair, ())}:
            similarity = len(pairs & test_pairs[i]) / len(pairs | test_pairs[i])
            if similarity >= SIMILAR and similarity > best.get(i, (0.0, cut))[0]:
                best[i] = (similarity, cut)
    found = [
        {"test": test[i][0].id, "train": cut.id, "similarity": round(score, 3), "text": test[i][0].supervisions[0].text} for i, (score, cut) in best.items()
    ]
    return sorted(found, key=lambda pair: (-pair["similarity"], pair["test"]))


def shared_groups(cuts: Cuts) -> list[str]:
    """Groups that occur in both splits."""
    return sorted({cut.custom["group"] for cut in cuts["train"]} & {cut.custom["group"] for cut in cuts["test"]})


# --- output ---------------------------------------------------------------------------------------------------------------------------


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Tables of the report on a terminal."""
    table = Table("split", "domain", "clips", "hours", "groups", "median s", "longest s", title="Clips")
    for split, domains in report["splits"].items():
        for domain, row in domains.items():
            table.add_row(split, domain, *(str(row[key]) for key in ("clips", "hours", "groups")), *(str(v) for v in row["seconds"].values()))
    console.print(table)
    table = Table("attribute", "domain", "split", "values", title="Attributes")
    for (key, domain, split), counts in sorted(_attribute_rows(report)):
        table.add_row(key, domain, split, ", ".join(f"{value} {n}" for value, n in list(counts.items())[:12]))
    console.print(table)
    audio, texts = report["audio_duplicates"], report["transcript_duplicates"]
    console.print(f"same audio in both splits: {len(audio['across_splits'])}; within a split: {audio['within_split']}; unreadable: {len(audio['unreadable'])}")
    console.print(f"test transcripts that are nearly those of a training clip: {len(texts)}; groups in both splits: {len(report['shared_groups'])}")
    console.print(f"sounds that are nearly the same in both splits: {len(report['similar_sounds'])}")
    near = [f"{pair['test']} (test) and {pair['train']} (train) correlate by {pair['correlation']}" for pair in report["similar_sounds"][:10]]
    for line in [
        *report["below_floors"],
        *near,
        *report["manifest_problems"][:5],
        *(f"same audio: {', '.join(ids)}" for ids in audio["across_splits"][:10]),
        *report["shared_groups"][:10],
    ]:
        console.print(line, markup=False)


def _attribute_rows(report: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, int]]]:
    for split, domains in report["splits"].items():
        for domain, row in domains.items():
            for key, counts in row["attributes"].items():
                yield (key, domain, split), counts


def plot(report: Mapping[str, Any], cuts: Cuts, output: Path) -> list[Path]:
    """Write the three figures; their paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    domains = sorted({cut.custom["domain"] for members in cuts.values() for cut in members})
    figures = {}
    figures["hours"], axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for i, split in enumerate(SPLITS):
        hours = [report["splits"].get(split, {}).get(domain, {}).get("hours", 0.0) for domain in domains]
        axis.bar(np.arange(len(domains)) + 0.4 * i, hours, 0.4, label=split)
    axis.set_xticks(np.arange(len(domains)) + 0.2, domains)
    axis.set_ylabel("hours")
    axis.legend()
    figures["durations"], axes = plt.subplots(1, len(domains), figsize=(4 * len(domains), 3.2), layout="constrained", squeeze=False)
    for axis, domain in zip(axes[0], domains, strict=True):
        for split in SPLITS:
            axis.hist([c.duration for c in cuts[split] if c.custom["domain"] == domain], bins=np.linspace(0, 30, 61), alpha=0.6, label=split)
        axis.set(title=domain, xlabel="seconds", ylabel="clips", yscale="log")
        axis.legend()
    figures["attributes"] = _plot_attributes(report, plt)
    paths = []
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=110)
        plt.close(figure)
        paths.append(output / f"{name}.png")
    return paths


def _plot_attributes(report: Mapping[str, Any], plt: Any) -> Any:
    """One bar chart per attribute and domain, training and test side by side."""
    panels: dict[tuple[str, str], dict[str, dict[str, int]]] = defaultdict(dict)
    for (key, domain, split), counts in _attribute_rows(report):
        if "(different values)" not in counts:
            panels[key, domain][split] = counts
    rows = max(1, -(-len(panels) // 3))
    figure, axes = plt.subplots(rows, 3, figsize=(15, 3.2 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, ((key, domain), by_split) in zip(axes.flat, sorted(panels.items()), strict=False):
        names = list(dict.fromkeys(value for counts in by_split.values() for value in counts))
        for i, split in enumerate(SPLITS):
            axis.bar(np.arange(len(names)) + 0.4 * i, [by_split.get(split, {}).get(name, 0) for name in names], 0.4, label=split)
        axis.set_xticks(np.arange(len(names)) + 0.2, names, rotation=90, fontsize=7)
        axis.set_title(f"{key} ({domain})", fontsize=9)
        axis.set_yscale("log")
    return figure


def make_report(corpus_dir: Path, output: Path, jobs: int, floors: str | None = None) -> dict[str, Any]:
    """Examine a corpus and write ``report.json`` and the figures.

    Args:
        corpus_dir: What ``examples/prepare_corpus.py`` wrote.
        output: Folder for the results.
        jobs: Processes for hashing the audio.
        floors: Key of `FLOORS`, or None.

    Returns:
        The content of ``report.json``.
    """
    cuts, problems = load(corpus_dir)
    report = {
        "splits": statistics(cuts),
        "audio_duplicates": audio_duplicates(cuts, jobs),
        "similar_sounds": similar_sounds(cuts),
        "transcript_duplicates": transcript_duplicates(cuts),
        "below_floors": below_floors(cuts, floors) if floors else [],
        "shared_groups": shared_groups(cuts),
        "manifest_problems": problems,
    }
    output.mkdir(parents=True, exist_ok=True)
    plot(report, cuts, output)
    write_atomic(output / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    return report


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus_dir", type=Path)
    parser.add_argument("--output", type=Path, help="folder for report.json and the figures (default: CORPUS_DIR/report)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--floors", choices=list(FLOORS), help="fail when the corpus has fewer clips than this tier promises")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        report = make_report(options.corpus_dir, options.output or options.corpus_dir / "report", options.jobs, options.floors)
    except (OSError, ValueError) as error:
        print(f"corpus_report: {error}", file=sys.stderr)
        return 2
    print_report(report, Console())
    same_sound = any(pair["correlation"] >= SAME_SOUND for pair in report["similar_sounds"])
    return 1 if report["audio_duplicates"]["across_splits"] or report["shared_groups"] or same_sound or report["below_floors"] else 0


if __name__ == "__main__":
    sys.exit(main())
