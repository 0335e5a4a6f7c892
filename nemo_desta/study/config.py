"""The typed configuration of a study: one recipe, several sets of targets (contract C7)."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from nemo_desta.config import DestaConfig
from nemo_desta.generation.template_targets import VOICES


class Writer(StrEnum):
    """Who writes a set of targets."""

    llm = "llm"  # an LLM that reads the description, as in target generation
    template = "template"  # templates filled with the clip's attributes


@dataclass
class TargetSetConfig:
    """One origin of targets: a file of conf/study/."""

    writer: Writer = Writer.llm  # llm | template
    llm: str | None = None  # writer llm: who (hf://, asset:// or directory); null = the backbone itself: self-generation
    voice: str = "plain"  # writer template: wording of the templates: plain | chatty
    about: str = ""  # what it is, for the report


@dataclass
class StudyConfig:
    """Root of conf/study_*.yaml."""

    name: str = MISSING  # of the study
    run_dir: str = MISSING  # everything that the study writes lies below it
    base: DestaConfig = field(default_factory=DestaConfig)  # the recipe of all arms; its name and run_dir are not used
    targets: dict[str, TargetSetConfig] = field(default_factory=dict)  # sets by name; the first one is what the others are compared with
    lora: list[bool] = field(default_factory=lambda: [False, True])  # each set is trained without and with LoRA on the backbone
    rows: int = 0  # training rows of every arm, drawn from those that all sets have; 0 = all of these
    perplexity_rows: int = 200  # rows of each set whose perplexity under the backbone is measured
    instructions: int = 16  # text-only instructions with a rule, asked before and after training


_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_study(cfg: StudyConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        ValueError: no sets, a name that is no file name, an unknown voice, no set of the backbone itself, or nothing to compare.
    """
    if not cfg.targets or not cfg.lora or len(set(cfg.lora)) != len(cfg.lora):
        raise ValueError(f"a study needs sets of targets and lora=[false], [true] or [false,true], got targets={sorted(cfg.targets)} and lora={cfg.lora}")
    for name, chosen in cfg.targets.items():
        if not _NAME.fullmatch(name) or name.endswith("_lora"):
            raise ValueError(f"targets.{name}: a set is named by lower-case letters, digits and '_', and not ..._lora, which names its arm with LoRA")
        if chosen.voice not in VOICES:
            raise ValueError(f"targets.{name}.voice={chosen.voice!r} is unknown: choose one of {', '.join(VOICES)}")
        if chosen.writer is Writer.template and chosen.llm is not None:
            raise ValueError(f"targets.{name}.llm={chosen.llm!r} with writer=template: templates are written by no LLM, leave it out or set writer=llm")
    if own_set(cfg) is None:
        raise ValueError("no set has writer=llm and llm=null: a study compares with the backbone's own answers, and templates answer the rows that these have")


def own_set(cfg: StudyConfig) -> str | None:
    """Name of the set that the backbone writes itself."""
    return next((name for name, chosen in cfg.targets.items() if chosen.writer is Writer.llm and chosen.llm in (None, cfg.base.model.llm)), None)


ConfigStore.instance().store(name="study_schema", node=StudyConfig)
