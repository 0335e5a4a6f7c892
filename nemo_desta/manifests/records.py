"""A cut as the dictionary that Lhotse writes to JSON: the few questions that every tool asks it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nemo_desta.seed.attributes import SELF_GENERATED

if TYPE_CHECKING:
    from lhotse.cut.data import DataCut

Record = dict[str, Any]

encode = msgspec.json.Encoder().encode
"""Record -> one line of JSON without its end, UTF-8."""
decode = msgspec.json.Decoder().decode

NAMED = ("text", "language", "gender", "speaker")  # attributes that are fields of a supervision; all others are in its custom
FURTHER_AUDIO = "further_audio"
"""Field of a Shar shard, and so of its cuts' custom, that holds the further clips of the rows (see `shar_further`)."""

_CUTS = {"MonoCut", "MultiCut"}


def source_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The source supervision (contract C1); empty where there is none."""
    supervisions = record.get("supervisions") or ()
    first = supervisions[0] if supervisions else None
    return first if first is not None and not is_row(first) else {}


def is_row(supervision: Mapping[str, Any]) -> bool:
    """Whether a supervision is a self-generated response."""
    return (supervision.get("custom") or {}).get("role") == SELF_GENERATED


def rows_of(record: Mapping[str, Any]) -> list[Record]:
    """The self-generated supervisions."""
    return [s for s in record.get("supervisions") or () if is_row(s)]


def further_of(row: Mapping[str, Any]) -> list[Record]:
    """The clips that a row is about besides the cut that it belongs to."""
    return list(row["custom"].get("clips") or ())


def attributes(record: Mapping[str, Any]) -> Record:
    """All attributes of the source supervision but its transcript; empty values are left out."""
    source = source_of(record)
    found = {name: source.get(name) for name in NAMED[1:]} | dict(source.get("custom") or {})
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def custom(record: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A value of the cut's ``custom``."""
    value = (record.get("custom") or {}).get(name)
    return default if value is None else value


def audio_path(record: Mapping[str, Any]) -> Path | None:
    """The audio file; None where the recording is in memory, behind a command, or missing."""
    for source in (record.get("recording") or {}).get("sources") or ():
        if source.get("type") == "file":
            return Path(source["source"])
    return None


def clip_key(record: Mapping[str, Any]) -> tuple[str, float, float]:
    """Which stretch of which recording a cut is: (path or recording id, start, duration), times in seconds to the millisecond."""
    path = audio_path(record)
    name = str(path) if path is not None else str((record.get("recording") or {}).get("id") or record.get("id"))
    return name, round(float(record.get("start") or 0.0), 3), round(float(record.get("duration") or 0.0), 3)


def group_of(record: Mapping[str, Any]) -> str:
    """What must not be divided between splits: the recipe's group, else the speaker, else the source recording."""
    dataset = custom(record, "dataset", "")
    if group := custom(record, "group"):
        return str(group)
    if speaker := source_of(record).get("speaker"):
        return f"{dataset}/speaker/{speaker}"
    parent = custom(record, "parent_id") or custom(record, "parent") or (record.get("recording") or {}).get("id")
    return f"{dataset}/source/{parent or record.get('id')}"


def check_record(record: Any) -> Record:
    """A record that has what every tool relies on.

    Raises:
        ValueError: no object, no id, or no duration.
    """
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if record.get("type", "MonoCut") not in _CUTS:
        raise ValueError(f"a {record['type']}, expected a MonoCut or MultiCut")
    if not isinstance(record.get("id"), str):
        raise ValueError("no id")
    if not isinstance(record.get("duration"), int | float):
        raise ValueError("no duration")
    return record


def to_cut(record: Record) -> "DataCut":
    """The Lhotse cut of a record. Fields that Lhotse does not know are left out.

    Raises:
        ValueError: it is no cut.
    """
    import dataclasses

    from lhotse import MonoCut, MultiCut, Recording, SupervisionSegment
    from lhotse.serialization import deserialize_item

    cls = MultiCut if record.get("type") == "MultiCut" else MonoCut

    def known(data: Mapping[str, Any], kind: type) -> Record:
        names = {f.name for f in dataclasses.fields(kind)} | {"type"}
        return {key: value for key, value in data.items() if key in names}

    try:
        data = known(check_record(record), cls)
        data["supervisions"] = [known(s, SupervisionSegment) for s in data.get("supervisions") or []]
        if data.get("recording"):
            data["recording"] = known(data["recording"], Recording)
        cut = deserialize_item({"type": "MonoCut", **data})
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"not a cut ({type(error).__name__}: {error})") from error
    return cut
