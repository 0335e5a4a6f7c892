"""What writes one part after the other with an engine of its own; under Ray it is an actor, and it needs nothing of Ray."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_desta import provenance
from nemo_desta.cli import sentence
from nemo_desta.config import DestaConfig
from nemo_desta.generation.answering import Work
from nemo_desta.generation.engines import Engine, make_engine
from nemo_desta.generation.parts import Part
from nemo_desta.generation.paths import Paths
from nemo_desta.generation.runner import Unit, done_key, is_done, read_json, write_targets
from nemo_desta.generation.several import compared_of
from nemo_desta.locking import exclusive
from nemo_desta.manifests.indexing import index_jsonl
from nemo_desta.manifests.sources import Problems
from nemo_desta.seed.prompts import PromptPool

PATIENCE = 60.0  # seconds for which a part may still be held by a worker of a run that was killed a moment ago


@dataclass(frozen=True)
class Job:
    """What every worker knows.

    Attributes:
        values: vocabulary of the whole set.
        every_cut: see `Unit`.
    """

    config: DestaConfig
    pool: PromptPool
    values: dict[str, list[str]]
    every_cut: bool


class Worker:
    """One engine, and one part after the other. A user's mistake or a limit of the machine travels back as text, see `raise_error`."""

    def __init__(self, job: Job, counter: Any = None) -> None:
        self.job, self.counter = job, counter
        self.paths = Paths(Path(job.config.run_dir).absolute())
        self._loaded: Engine | None = None
        self.ready = 0.0  # clock when the engine was there

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Ray Data's interface: parts to results, both as JSON."""
        return {"result": [json.dumps(self.write(Part.loads(str(text)))) for text in batch["part"]]}

    def write(self, part: Part) -> dict[str, Any]:
        """Write a part; what was done, or what stood in the way."""
        paths = Paths(self.paths.root, part.number)
        try:
            with _held(paths.targets):
                return self._write(part, paths)
        except (ValueError, OSError) as error:
            return {"part": part.number, "error": [isinstance(error, OSError), getattr(error, "errno", None), sentence(error)]}

    def _write(self, part: Part, paths: Paths) -> dict[str, Any]:
        config = self.job.config
        said: dict[str, Any] = {"part": part.number, "span": asdict(part.span), "chosen": part.chosen, "every_cut": self.job.every_cut}
        if part.compared is not None:
            said["compared"] = part.compared
        key = done_key(config, paths, self.job.pool, part.sha256, values=self.job.values, **said)
        manifest, work = read_json(paths.manifest) or {}, Work()
        if not is_done(paths, key):
            cuts, before = part.cuts(), self._counters()
            origin = {"part": part.number, "input": {"file": Path(part.file).name, "sha256": part.sha256, "span": asdict(part.span)}}
            # A part whose lines are all damaged has nothing to be asked.
            chosen, compared = part.chosen if len(cuts) else [], compared_of(part, self.paths.targets)
            unit = Unit(paths, cuts, self.job.values, key, {}, chosen, compared, self.job.every_cut, origin)
            manifest, work = write_targets(config, unit, self.job.pool, self._engine(), self._on_rows)
            manifest["engine_counters"] = {name: count - before.get(name, 0) for name, count in self._counters().items()}
            manifest["shard"] = index_jsonl(paths.cuts, Problems())
            provenance.write_json_atomic(paths.manifest, manifest)
        return {"part": part.number, "generated": manifest["generated"], "work": asdict(work), "ready": self.ready, "ended": time.time()}

    def _engine(self) -> Engine:
        if self._loaded is None:
            self._loaded = make_engine(self.job.config)
            self.ready = time.time()
        return self._loaded

    def _counters(self) -> dict[str, int]:
        return self._loaded.counters() if self._loaded is not None else {}

    def _on_rows(self, rows: int) -> None:
        if self.counter is not None:
            self.counter.add.remote(rows)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a part's folder. The worker of a driver that was killed a moment ago may still have it: wait for its end."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(folder))
                break
            except ValueError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield


def raise_error(result: Mapping[str, Any]) -> None:
    """Raise what a worker met."""
    is_os, number, text = result["error"]
    if is_os:
        raise OSError(number, text) if number else OSError(text)
    raise ValueError(text)
