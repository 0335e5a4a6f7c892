"""The prompt pool: what the backbone is asked about a clip when it writes its own targets.

The pool is YAML, one list of groups a file (format and how to grow it: ``docs/prompts.md``)::

    - group: speech-gender          # prefix of the ids
      domain: speech                # speech | sound | music | any
      kind: attribute               # attribute | description | reasoning | instruction | roleplay | conversation | comparison
      attribute: gender             # for kind attribute: what is asked
      requires: [gender]            # attributes the clip must have; for kind attribute its own is implied
      prompts:
        - Is the speaker male or female?
        - {id: speech-gender-x, text: What is the gender of the speaker?}

Prompts of kind ``comparison`` are about several clips at once: ``clips`` says how many, ``ask`` what of their values of ``attribute`` (`ASKS`), and
``{value}`` stands for the value of one of them.

A prompt's id is its group and a hash of its text unless it names one: it survives reordering and additions, and changes with the text.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lhotse.cut import Cut

from nemo_desta.seed.attributes import ATTRIBUTES, TRANSCRIPT, attributes_of

POOL_DIR = Path(__file__).parent / "pool"
WEAK_FOR_SMALL = Path(__file__).parent / "weak_for_small.yaml"
DOMAINS = ("speech", "sound", "music", "any")
COMPARISON = "comparison"  # the kind about several clips
KINDS = ("attribute", "description", "reasoning", "instruction", "roleplay", "conversation", COMPARISON)
ASKS = ("which", "same", "count", "list", "most", "least", "sort", "open")
VALUED_ASKS = frozenset({"which", "count"})  # their texts name a value
MAX_CLIPS = 3
VALUE = "{value}"
NEAR_DUPLICATE = 0.85
"""Word-set overlap (Jaccard) from which two prompts of a kind count as the same."""

_GROUP_KEYS = {"group", "domain", "kind", "attribute", "requires", "prompts", "clips", "ask"}
_KNOWN = frozenset(ATTRIBUTES) | {TRANSCRIPT}
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class Prompt:
    """One prompt of the pool.

    Attributes:
        id: stable over reordering and growth of the pool.
        text: what the backbone is asked.
        domain: clips it fits: ``speech``, ``sound``, ``music`` or ``any``.
        kind: one of :data:`KINDS`.
        attribute: for kinds ``attribute`` and ``comparison``, the attribute asked for; else None.
        requires: attributes a clip must have so that its seed can answer; of several clips each.
        clips: how many it is about.
        ask: for kind ``comparison``, one of :data:`ASKS`.
    """

    id: str
    text: str
    domain: str
    kind: str
    attribute: str | None
    requires: tuple[str, ...]
    clips: int = 1
    ask: str | None = None

    def fits(self, domain: str | None, attributes: Collection[str], *, clips: int = 1) -> bool:
        """Whether a clip of this domain that has these attributes can answer, alone or as one of several. A ``mixed`` clip takes prompts of every domain."""
        return self.clips == clips and (self.domain in ("any", domain) or domain == "mixed") and all(key in attributes for key in self.requires)


def normalise(text: str) -> str:
    """Return lower-case words separated by single spaces: two prompts with the same form are the same prompt."""
    return " ".join(re.findall(r"\w+", text.lower().replace("'", "").replace("’", "")))


def similarity(first: str, second: str) -> float:
    """Return the Jaccard overlap of the word sets of two texts, 0..1."""
    a, b = set(normalise(first).split()), set(normalise(second).split())
    return len(a & b) / len(a | b) if a | b else 1.0


def nearest(text: str, others: Iterable[str]) -> tuple[float, str]:
    """Return the most similar of `others` with its similarity; (0.0, "") when there is none."""
    return max(((similarity(text, other), other) for other in others), default=(0.0, ""))


def _draw(*parts: object) -> int:
    """Return a large number that depends on nothing but the parts (not on the process, platform or Python's hash seed)."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


@dataclass(frozen=True)
class PromptPool:
    """A validated set of prompts and the rule that draws from it."""

    prompts: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @cached_property
    def by_id(self) -> Mapping[str, Prompt]:
        """Prompts by their id."""
        return {prompt.id: prompt for prompt in self.prompts}

    def subset(self, *, kinds: Collection[str] | None = None, attributes: Collection[str] | None = None) -> "PromptPool":
        """Return the pool without some kinds, or with attribute questions about the named attributes only.

        Args:
            kinds: kinds to keep, None = all.
            attributes: attributes that kind ``attribute`` may ask for, None = all. Other kinds are not touched by it.

        Raises:
            ValueError: an unknown kind or attribute.
        """
        _check_known("kind", kinds or (), KINDS)
        _check_known("attribute", attributes or (), _KNOWN)
        keep = (p for p in self.prompts if kinds is None or p.kind in kinds)
        return PromptPool(tuple(p for p in keep if attributes is None or p.attribute is None or p.attribute in attributes))

    def for_small_backbone(self) -> "PromptPool":
        """Return the pool without the attribute questions that a 135 M backbone cannot answer for every value (``weak_for_small.yaml``)."""
        weak = frozenset(yaml.safe_load(WEAK_FOR_SMALL.read_text(encoding="utf-8")))
        return PromptPool(tuple(p for p in self.prompts if p.id not in weak))

    def answerable(self, cut: Cut) -> list[Prompt]:
        """Return the prompts that the seed of this clip can answer, in pool order."""
        attributes = attributes_of(cut)
        return [prompt for prompt in self.prompts if prompt.fits(attributes.get("domain"), attributes)]

    def sample(self, cut: Cut, k: int, seed: int, attribute_fraction: float) -> list[Prompt]:
        """Draw `k` distinct prompts for a clip, a pure function of the arguments and the pool.

        Each draw is an attribute question with probability `attribute_fraction`, uniform over the attributes the clip has first and over
        the wordings of that attribute second (an attribute with many wordings is not asked more often); the attributes are used up before
        one is asked again. Other draws are uniform over the other kinds first, then over the prompts of that kind. The first draws do not
        depend on `k`.

        Args:
            cut: the clip; its id and attributes matter.
            k: how many; fewer come back where the clip answers fewer.
            seed: of the run.
            attribute_fraction: share of attribute questions, 0..1.

        Raises:
            ValueError: `k` is negative or `attribute_fraction` is outside 0..1.
        """
        if k < 0 or not 0.0 <= attribute_fraction <= 1.0:
            raise ValueError(f"cannot sample k={k} prompts with attribute_fraction={attribute_fraction}: k must be >= 0, the fraction in 0..1")
        fitting = self.answerable(cut)
        closed = _Deck((p for p in fitting if p.kind == "attribute"), lambda p: p.attribute or "")
        opened = _Deck((p for p in fitting if p.kind != "attribute"), lambda p: p.kind)
        chosen: list[Prompt] = []
        while len(chosen) < k and (closed or opened):
            draw = len(chosen)
            wants_attribute = _draw(seed, cut.id, draw, "which") / 2**64 < attribute_fraction
            # A fraction of 0 or 1 means none or only attribute questions; between, the other deck steps in when one is empty.
            if (wants_attribute or attribute_fraction == 1.0) and (closed or attribute_fraction == 1.0):
                deck = closed
            else:
                deck = opened if opened or attribute_fraction == 0.0 else closed
            if not deck:
                break
            chosen.append(deck.draw(seed, cut.id, draw))
        return chosen

    def count(self, domain: str | None, attributes: Collection[str], k: int, attribute_fraction: float) -> int:
        """Return how many prompts `sample` draws for a clip of this domain that has these attributes."""
        fitting = [prompt for prompt in self.prompts if prompt.fits(domain, attributes)]
        closed = sum(prompt.kind == "attribute" for prompt in fitting)
        return min(k, {0.0: len(fitting) - closed, 1.0: closed}.get(attribute_fraction, len(fitting)))


class _Deck:
    """Prompts in suits; draws go round the suits, each prompt once."""

    def __init__(self, prompts: Iterable[Prompt], suit_of: Any) -> None:
        self.suits: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self.suits.setdefault(suit_of(prompt), []).append(prompt)
        self.used: dict[str, int] = dict.fromkeys(self.suits, 0)

    def __bool__(self) -> bool:
        return any(self.suits.values())

    def draw(self, *key: object) -> Prompt:
        filled = {name: used for name, used in self.used.items() if self.suits[name]}
        fresh = sorted(name for name, used in filled.items() if used == min(filled.values()))
        # Lowest hash wins: the choice among those left is uniform, and adding a prompt to the pool changes few draws.
        suit = min(fresh, key=lambda name: _draw(*key, "suit", name))
        prompt = min(self.suits[suit], key=lambda p: _draw(*key, "prompt", p.id))
        self.suits[suit].remove(prompt)
        self.used[suit] += 1
        return prompt


def _check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"unknown {what} {unknown}: known are {sorted(known)}")


def _fail(path: Path, where: str, problem: str) -> ValueError:
    return ValueError(f"{path}: {where}: {problem}")


def parse_group(path: Path, index: int, raw: Any) -> list[Prompt]:
    """Check one group of a pool file.

    Args:
        path: the file, for messages.
        index: place of the group in it.
        raw: the group as YAML gives it.

    Raises:
        ValueError: a key, domain, kind, attribute, name or prompt is wrong; names the file and the entry.
    """
    where = f"group {index + 1}"
    if not isinstance(raw, dict):
        raise _fail(path, where, f"must be a mapping with the keys {sorted(_GROUP_KEYS)}, got {type(raw).__name__}")
    where = f"group {raw.get('group', index + 1)!r}"
    if unknown := set(raw) - _GROUP_KEYS:
        raise _fail(path, where, f"unknown key {sorted(map(str, unknown))}: known are {sorted(_GROUP_KEYS)}")
    name, domain, kind, attribute = raw.get("group"), raw.get("domain"), raw.get("kind"), raw.get("attribute")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise _fail(path, where, f"the group's name must be lower-case letters, digits, '.', '_' and '-', got {name!r}")
    if domain not in DOMAINS or kind not in KINDS:
        raise _fail(path, where, f"domain {domain!r} must be one of {DOMAINS} and kind {kind!r} one of {KINDS}")
    clips, ask = _parse_comparison(path, where, raw)
    if (kind == "attribute" or ask not in (None, "open")) != (attribute is not None):
        raise _fail(path, where, f"kind 'attribute' names an attribute and no other kind does, got kind {kind!r} with attribute {attribute!r}, ask {ask!r}")
    requires = raw.get("requires") or []
    if not isinstance(requires, list):
        raise _fail(path, where, f"requires must be a list of attributes, got {requires!r}")
    needed = tuple(dict.fromkeys([*([attribute] if attribute else []), *requires]))
    if strangers := [key for key in needed if key not in _KNOWN]:
        raise _fail(path, where, f"unknown attribute {strangers}: known are {sorted(_KNOWN)}")
    entries = raw.get("prompts")
    if not isinstance(entries, list) or not entries:
        raise _fail(path, where, "prompts must be a list with at least one prompt")
    texts = [_parse_entry(path, where, name, n, entry) for n, entry in enumerate(entries)]
    if strays := [text for _, text in texts if (VALUE in text) != (ask in VALUED_ASKS)]:
        raise _fail(path, where, f"{VALUE} stands in every prompt with ask {' or '.join(sorted(VALUED_ASKS))} and in no other, got {strays[0]!r}")
    return [Prompt(prompt_id, text, domain, kind, attribute, needed, clips, ask) for prompt_id, text in texts]


def _parse_comparison(path: Path, where: str, raw: Mapping[str, Any]) -> tuple[int, str | None]:
    """Return ``clips`` and ``ask`` of a group; (1, None) for one that is about a single clip."""
    clips, ask = raw.get("clips", 1), raw.get("ask")
    if raw.get("kind") != COMPARISON:
        if clips != 1 or ask is not None:
            raise _fail(path, where, f"clips and ask are for kind {COMPARISON!r} only, got clips {clips!r} and ask {ask!r}")
        return 1, None
    if clips not in range(2, MAX_CLIPS + 1) or ask not in ASKS:
        raise _fail(path, where, f"kind {COMPARISON!r} needs clips from 2 to {MAX_CLIPS} and an ask of {ASKS}, got clips {clips!r} and ask {ask!r}")
    return clips, ask


def _parse_entry(path: Path, where: str, group: str, index: int, entry: Any) -> tuple[str, str]:
    """Return id and text of one entry of a group: a string, or a mapping with ``id`` and ``text``."""
    where = f"{where}, prompt {index + 1}"
    if isinstance(entry, str):
        entry = {"text": entry}
    if not isinstance(entry, dict) or set(entry) - {"id", "text"}:
        raise _fail(path, where, f"must be a text or a mapping of id and text, got {entry!r}")
    text = entry.get("text")
    if not isinstance(text, str) or not normalise(text):
        raise _fail(path, where, f"has no text: {entry!r}")
    prompt_id = entry.get("id") or prompt_id_of(group, text)
    if not isinstance(prompt_id, str) or not _ID.fullmatch(prompt_id):
        raise _fail(path, where, f"id must be lower-case letters, digits, '.', '_' and '-', got {prompt_id!r}")
    return prompt_id, " ".join(text.split())


def prompt_id_of(group: str, text: str) -> str:
    """Return the id of a prompt that names none: its group and eight hex digits of the SHA-256 of its normalised text."""
    return f"{group}-{hashlib.sha256(normalise(text).encode()).hexdigest()[:8]}"


def read_prompts(path: Path) -> list[Prompt]:
    """Read and check one YAML file of the pool.

    Raises:
        ValueError: the file is missing or no YAML list, or a group or prompt is wrong; names the file and the entry.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as a prompt file: {error}") from error
    if not isinstance(raw, list):
        raise ValueError(f"{path}: must be a YAML list of groups, got {type(raw).__name__}")
    return [prompt for index, group in enumerate(raw) for prompt in parse_group(path, index, group)]


def load_pool(paths: Sequence[str | Path] | None = None) -> PromptPool:
    """Load and validate prompt files.

    Args:
        paths: YAML files, or directories whose ``*.yaml`` are read in order of name; None = the pool shipped with the package.

    Raises:
        ValueError: no file, an unknown key, domain, kind or attribute, or an id or text (compared without case and punctuation) that
            stands twice; names the file and the entry.
    """
    roots = [Path(p) for p in paths] if paths is not None else [POOL_DIR]
    files = [file for root in roots for file in (sorted(root.glob("*.yaml")) if root.is_dir() else [root])]
    if not files:
        raise ValueError(f"no prompt files in {[str(r) for r in roots]}: give YAML files or directories that hold some")
    prompts: list[Prompt] = []
    seen_ids: dict[str, Path] = {}
    seen_texts: dict[str, tuple[Path, str]] = {}
    for file in files:
        for prompt in read_prompts(file):
            form = normalise(prompt.text)
            if form in seen_texts:
                raise ValueError(f"{file}: prompt {prompt.id!r}: its text {prompt.text!r} stands already in {seen_texts[form][0]} as {seen_texts[form][1]!r}")
            if prompt.id in seen_ids:
                raise ValueError(f"{file}: prompt {prompt.id!r}: this id stands already in {seen_ids[prompt.id]}")
            seen_ids[prompt.id], seen_texts[form] = file, (file, prompt.id)
            prompts.append(prompt)
    return PromptPool(tuple(prompts))
