"""Rows about several clips in a set that is asked in parts: drawn over the whole set, written with the part of their first clip.

What is drawn is what a run in one process draws (`comparison.choose`): that needs a name and a few attributes of every clip, which the driver holds, about
300 bytes a clip and 500 a row, and so 2 to 4 GB for five million of each. The further clips of the drawn rows are copied once into ``further_clips.jsonl``;
a part knows at which bytes its own begin.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from nemo_desta.config import GenerationConfig
from nemo_desta.generation.comparison import Choice, ClipTable, Compared, choose, comparisons_for
from nemo_desta.generation.parts import Part
from nemo_desta.locking import explain_full_disk
from nemo_desta.manifests.records import Record, decode, encode, to_cut
from nemo_desta.manifests.sources import Problems, file_records
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.prompts import PromptPool

FURTHER = "further_clips.jsonl"


def table_of_part(part: Part, pool: PromptPool, config: GenerationConfig) -> str:
    """A part's clips as the drawing sees them, and how many rows about one clip it has (without ``generation.rows``), as text."""
    counts: dict[tuple[str | None, frozenset[str]], int] = {}
    known: list[tuple[str, dict[str, str]]] = []
    single = 0
    for cut in part.cuts():
        attributes = attributes_of(cut)
        key = attributes.get("domain"), frozenset(attributes)
        if key not in counts:
            counts[key] = pool.count(*key, config.prompts_per_cut, config.attribute_prompt_fraction)
        single += counts[key]
        known.append((cut.id, attributes))
    table = ClipTable.of(known, pool)
    return json.dumps([single, table.names, table.kinds.tolist(), table.attributes])


def deal_comparisons(parts: Sequence[Part], tables: Sequence[str], pool: PromptPool, config: GenerationConfig, folder: Path) -> list[Part]:
    """Draw the rows about several clips and give every part its own, in the order in which they were drawn.

    Args:
        tables: of each part, see `table_of_part`.
        folder: ``targets``, where the further clips are written.

    Raises:
        ValueError: see `choose`; or the share is outside [0, 1].
    """
    read = [json.loads(text) for text in tables]
    dealt = [len(part.chosen) if part.chosen is not None else single for part, (single, *_) in zip(parts, read, strict=True)]
    own = [ClipTable(names, np.array(kinds, dtype=np.int32), attributes) for _, names, kinds, attributes in read]
    ends = np.cumsum([len(table.names) for table in own])
    choices = choose(ClipTable.joined(own), pool, config, comparisons_for(config, sum(dealt)))
    places = _write_further(parts, {name for choice in choices for name in choice.names[1:]}, folder / FURTHER)
    of_part: list[list[Choice]] = [[] for _ in parts]
    for choice in choices:
        of_part[int(np.searchsorted(ends, choice.place, side="right"))].append(choice)
    return [replace(part, compared=_packed(mine, places)) for part, mine in zip(parts, of_part, strict=True)]


def _packed(choices: Sequence[Choice], places: Mapping[str, int]) -> dict[str, Any]:
    """Plain data for `Part.compared`."""
    values = list(dict.fromkeys(choice.values for choice in choices))
    number = {those: i for i, those in enumerate(values)}
    rows = [[choice.prompt_id, choice.names, choice.value, number[choice.values]] for choice in choices]
    return {"values": values, "rows": rows, "places": {name: places[name] for choice in choices for name in choice.names[1:]}}


def _write_further(parts: Sequence[Part], wanted: set[str], path: Path) -> dict[str, int]:
    """Copy these clips from the input; where each begins."""
    places: dict[str, int] = {}
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with explain_full_disk(path, "nothing was asked yet"), open(descriptor, "wb") as file:
            for record in _records(parts) if wanted else ():
                if record["id"] in wanted and record["id"] not in places:
                    places[record["id"]] = file.tell()
                    file.write(encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return places


def _records(parts: Sequence[Part]) -> Iterator[Record]:
    for name in dict.fromkeys(part.file for part in parts):
        yield from file_records(Path(name), Problems())


def compared_of(part: Part, folder: Path) -> Compared | None:
    """The rows about several clips of a part, with the clips; None where the run has no such rows."""
    if part.compared is None:
        return None
    values = [tuple(those) for those in part.compared["values"]]
    choices = [Choice(prompt, tuple(names), value, values[number], -1) for prompt, names, value, number in part.compared["rows"]]
    inside = {cut.id for cut in part.cuts()}
    places = {name: place for name, place in part.compared["places"].items() if name not in inside}
    return Compared(choices, list(_read_further(folder / FURTHER, sorted(places.values()))) if places else [])


def _read_further(path: Path, places: Iterable[int]) -> Iterator[Cut]:
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            yield to_cut(decode(file.readline()))
