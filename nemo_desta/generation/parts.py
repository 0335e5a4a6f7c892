"""A large set in parts that are asked one by one: which they are, what all of them need to know of the whole, and what is wrong with the input.

The input is looked through once (`survey_file`, one task a file): how many cuts, which values the attributes have (a filter compares answers with them),
whether ids are unique. ``inputs.json`` keeps that, so that a run that goes on reads nothing twice.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut

from nemo_desta import provenance
from nemo_desta.generation.plan import vocabulary
from nemo_desta.generation.runner import read_json
from nemo_desta.manifests.records import to_cut
from nemo_desta.manifests.sources import Problems, Span, file_records, manifest_files, shar_folder, spans

logger = logging.getLogger(__name__)

INPUTS = "inputs.json"


@dataclass(frozen=True)
class Part:
    """A stretch of an input file, which becomes one output shard.

    Attributes:
        number: of the output shard, from 0.
        file: path of the input.
        sha256: of the whole input file.
        chosen: see `make_plan`.
        compared: rows about several clips that begin with one of its cuts, as `several` packs them; None where the run has none.
    """

    number: int
    file: str
    sha256: str
    span: Span
    chosen: list[tuple[str, str]] | None = None
    compared: dict[str, Any] | None = None

    def dumps(self) -> str:
        """As text, to travel to a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Part":
        """From `dumps`."""
        data = json.loads(text)
        chosen = data["chosen"]
        return cls(**{**data, "span": Span(**data["span"]), "chosen": chosen if chosen is None else [(cut, prompt) for cut, prompt in chosen]})

    def rows_at_most(self, prompts_per_cut: int) -> int:
        """How many rows it has, where no clip answers fewer prompts."""
        single = len(self.chosen) if self.chosen is not None else self.span.count * prompts_per_cut
        return single + len((self.compared or {}).get("rows", ()))

    def cuts(self) -> CutSet:
        """Its cuts; damaged lines are left out (the survey lists them)."""
        return CutSet.from_cuts(_cuts(Path(self.file), Problems(), self.span))


@dataclass(frozen=True)
class Inputs:
    """What is known of all input files together; plain data."""

    files: list[dict[str, Any]]
    shard_cuts: int
    values: dict[str, list[str]]
    problems: dict[str, Any]

    @property
    def cuts(self) -> int:
        """Cuts that can be read."""
        return sum(file["cuts"] for file in self.files)

    @property
    def sha256(self) -> str:
        """Of the contents of all files."""
        return hashlib.sha256("".join(file["sha256"] for file in self.files).encode()).hexdigest()

    def parts(self) -> list[Part]:
        """The parts, in the order of the input."""
        stretches = [(file, Span(*span)) for file in self.files for span in file["spans"]]
        return [Part(number, file["path"], file["sha256"], span) for number, (file, span) in enumerate(stretches)]


def input_files(path: Path) -> list[Path]:
    """The JSONL files of a Shar folder, an indexed store, any folder of JSONL shards, or a single file.

    Raises:
        FileNotFoundError: no such input.
        ValueError: a folder without JSONL files.
    """
    try:
        return [file.absolute() for file in manifest_files(path)]
    except FileNotFoundError:
        advice = "set ray.input to shards of cuts, or run examples/prepare_corpus.py with the same configuration"
        raise FileNotFoundError(f"{path} does not exist: {advice}") from None
    except ValueError:
        files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
        if not files:
            raise
        return [file.absolute() for file in files]


def is_shar(path: Path) -> bool:
    """Whether audio lies beside the cuts, shard by shard: such shards keep all their cuts, or they would no longer fit together."""
    folder = shar_folder(path)
    return folder is not None and any(folder.glob("*.tar"))


def survey_file(path: Path, shard_cuts: int | None) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, Any], bytes]:
    """Look through one file.

    Args:
        shard_cuts: lines of a part; None = the file is one part.

    Returns:
        Entry of `Inputs.files`; values of its attributes; what is wrong; 64-bit hashes of the ids.
    """
    problems = Problems()
    ids: list[int] = []

    def seen() -> Iterator[Cut]:
        for cut in _cuts(path, problems):
            ids.append(_hash(cut.id))
            yield cut

    values = vocabulary(seen())
    size = path.stat()
    stretches = [[span.first, span.count, span.start] for span in spans(path, shard_cuts)]
    content = {"sha256": provenance.sha256_file(path), "cuts": len(ids), "spans": stretches}
    entry = {"path": str(path), "bytes": size.st_size, "mtime_ns": size.st_mtime_ns, **content}
    return entry, values, problems.as_dict(), np.array(ids, dtype="<u8").tobytes()


def gather(found: Sequence[tuple[dict[str, Any], Mapping[str, Sequence[str]], Mapping[str, Any], bytes]], shard_cuts: int) -> Inputs:
    """What `survey_file` found in every file, in their order, put together.

    Raises:
        ValueError: no cuts, or an id stands twice.
    """
    values: dict[str, set[str]] = {}
    problems = Problems()
    for _, known, wrong, _ in found:
        for key, names in known.items():
            values.setdefault(key, set()).update(names)
        problems.counts.update(wrong["counts"])
        problems.sentences += wrong["listed"]
    files = [entry for entry, *_ in found]
    ids = np.concatenate([np.frombuffer(raw, "<u8") for *_, raw in found])
    if not len(ids):
        first = f" (first problem: {problems.sentences[0]})" if problems.sentences else ""
        raise ValueError(f"the {len(files)} input files hold no readable cut{first}")
    hashes, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        name = _first_double([Path(file["path"]) for file in files], {int(x) for x in hashes[times > 1]})
        raise ValueError(f"{int((times > 1).sum())} cut ids stand twice in the input, first {name}: remove them (tools/manifests.py dedup --by id)")
    if problems:
        logger.warning("%d problems in the input, listed in %s; first: %s", len(problems), INPUTS, problems.sentences[0])
    return Inputs(files, shard_cuts, {key: sorted(names) for key, names in sorted(values.items())}, problems.as_dict())


def load_inputs(path: Path, files: Sequence[Path], shard_cuts: int) -> Inputs | None:
    """What an earlier run wrote down, where the files are still those."""
    known = read_json(path)
    try:
        inputs = Inputs(**known) if known else None
    except TypeError:
        return None
    if inputs is None or inputs.shard_cuts != shard_cuts or [f["path"] for f in inputs.files] != [str(file) for file in files]:
        return None
    same = all((f["bytes"], f["mtime_ns"]) == (s.st_size, s.st_mtime_ns) for f, s in zip(inputs.files, (file.stat() for file in files), strict=True))
    return inputs if same else None


def deal(parts: Sequence[Part], chosen: Sequence[tuple[str, str]]) -> list[Part]:
    """Give every part its rows of a plan of the whole set, in the order of the plan."""
    where = {cut.id: part.number for part in parts for cut in part.cuts()}
    ordered = sorted(chosen, key=lambda pair: where[pair[0]])  # stable: the plan's order stays within a part
    own = {number: list(pairs) for number, pairs in groupby(ordered, key=lambda pair: where[pair[0]])}
    return [Part(part.number, part.file, part.sha256, part.span, own.get(part.number, [])) for part in parts]


def _cuts(path: Path, problems: Problems, span: Span | None = None) -> Iterator[Cut]:
    for record in file_records(path, problems, span):
        try:
            yield to_cut(record)
        except ValueError as error:
            problems.add("damaged line", f"{path}, cut {record['id']}: skipped, {error}")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _first_double(files: Sequence[Path], hashes: set[int]) -> str:
    seen: dict[str, Path] = {}
    for file in files:
        for record in file_records(file, Problems()):
            name = record["id"]
            if _hash(name) in hashes and seen.setdefault(name, file) is not file:
                return f"{name!r} in {seen[name].name} and {file.name}"
    return f"{next(iter(seen), None)!r}, within one file"
