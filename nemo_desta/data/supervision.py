"""Self-generated supervisions of a cut (contract C1).

``cut.supervisions[0]`` is the source supervision (transcript and attributes). Every further one whose ``custom["role"]`` is
``"self_generated"`` holds one response of the backbone together with all that is needed to reproduce it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lhotse import SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from nemo_desta.manifests.records import FURTHER_AUDIO
from nemo_desta.seed.attributes import SELF_GENERATED as ROLE

CLIPS = "clips"
"""Key of a row's ``custom`` under which its further clips stand, as Lhotse cuts in plain JSON."""

Message = dict[str, Any]
"""``{"role": "system" | "user" | "assistant", "content": str}``, in training and inference also ``"audios": [{"audio", "text"}]``."""


def self_generated(cut: MonoCut) -> list[SupervisionSegment]:
    """The self-generated supervisions of ``cut``, in the order in which they were added."""
    return [s for s in cut.supervisions if (s.custom or {}).get("role") == ROLE]


def source_supervision(cut: MonoCut) -> SupervisionSegment:
    """The supervision that carries the clip's own transcript and attributes.

    Raises:
        ValueError: the cut has none.
    """
    if not cut.supervisions or (cut.supervisions[0].custom or {}).get("role") == ROLE:
        raise ValueError(f"cut {cut.id!r} has no source supervision: the first supervision must hold the clip's transcript and attributes")
    return cut.supervisions[0]


def add_self_generated(
    cut: MonoCut,
    *,
    row_id: str,
    response: str,
    messages: Sequence[Message],
    prompt: str,
    prompt_id: str,
    prompt_kind: str,
    attribute: str | None,
    generator: Mapping[str, Any],
    clips: Sequence[MonoCut] = (),
) -> MonoCut:
    """A copy of ``cut`` with one more self-generated supervision.

    Args:
        row_id: unique over the whole set; becomes the supervision's id.
        response: the training target.
        messages: the conversation with ``<|AUDIO|>`` locators, used for training as it stands.
        prompt: the pool's prompt; ``prompt_id``, ``prompt_kind`` and ``attribute`` say which one.
        generator: provenance: model, revision, engine, temperature, top_p, max_tokens, seed, prompt_sha256, finish_reason.
        clips: further clips of the conversation, in the order of their locators; ``cut`` is the first. The row holds what is needed to hear them.
    """
    custom = {
        "role": ROLE,
        "messages": [dict(m) for m in messages],
        "prompt": prompt,
        "prompt_id": prompt_id,
        "prompt_kind": prompt_kind,
        "attribute": attribute,
        "generator": dict(generator),
        **({CLIPS: [_clip_record(clip) for clip in clips]} if clips else {}),
    }
    row = SupervisionSegment(id=row_id, recording_id=cut.recording_id or cut.id, start=0.0, duration=cut.duration, channel=0, text=response, custom=custom)
    return fastcopy(cut, supervisions=[*cut.supervisions, row])


def _clip_record(cut: MonoCut) -> dict[str, Any]:
    """A clip without its attributes and rows: where its sound lies, and its words."""
    source = source_supervision(cut)
    words = SupervisionSegment(id=source.id, recording_id=source.recording_id, start=source.start, duration=source.duration, text=source.text)
    return dict(fastcopy(cut, supervisions=[words], custom={}).to_dict())


def further_clips(row: SupervisionSegment, cut: MonoCut | None = None) -> list[MonoCut]:
    """The clips of a row besides the cut that it belongs to, in the order of their locators; none for most rows.

    Args:
        cut: that it belongs to; needed to hear clips of a Shar shard, where their sound is a field of the cut.

    Raises:
        ValueError: what stands there is no cut, or its sound is not there.
    """
    found = (row.custom or {}).get(CLIPS) or []
    try:
        clips = [deserialize_item({"type": "MonoCut", **copy.deepcopy(record)}) for record in found]  # Lhotse takes its argument apart
        return [_within(clip, cut) if (clip.custom or {}).get("field") == FURTHER_AUDIO else clip for clip in clips]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"row {row.id!r}: its further clips cannot be read ({type(error).__name__}: {error})") from error


def _within(clip: MonoCut, cut: MonoCut | None) -> MonoCut:
    """A further clip that is a stretch of a recording of the shard."""
    recording = ((cut.custom if cut is not None else None) or {}).get(FURTHER_AUDIO)
    if recording is None:
        raise ValueError(f"the sound of {clip.id!r} lies in the field {FURTHER_AUDIO} of its Shar shard: read the shard with CutSet.from_shar, all its fields")
    return fastcopy(clip, recording=recording)
