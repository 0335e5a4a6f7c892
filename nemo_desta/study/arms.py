"""The arms of a study as configurations of the recipe: what an arm does is what the recipe does, with other targets and with or without LoRA."""

from dataclasses import dataclass, replace
from pathlib import Path

from nemo_desta.config import DestaConfig
from nemo_desta.study.config import StudyConfig

LORA = "_lora"


@dataclass(frozen=True)
class Arm:
    """One training run of a study."""

    targets: str
    lora: bool

    @property
    def name(self) -> str:
        return self.targets + LORA * self.lora


@dataclass(frozen=True)
class Paths:
    """Folders of a study. Arms and writers share the corpus and the encoder's taps by links: these depend on neither targets nor LoRA."""

    root: Path

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def targets(self, name: str) -> Path:
        """Training rows of a set."""
        return self.root / "targets" / f"{name}.jsonl.gz"

    def writer(self, name: str) -> Path:
        """Run directory in which an LLM writes a set."""
        return self.root / "writers" / name

    def arm(self, arm: Arm) -> Path:
        """Run directory of an arm."""
        return self.root / "arms" / arm.name


def arms(cfg: StudyConfig) -> list[Arm]:
    """All arms: every set without LoRA, then with it."""
    return [Arm(name, lora) for lora in cfg.lora for name in cfg.targets]


def writer_config(cfg: StudyConfig, name: str, paths: Paths) -> DestaConfig:
    """The configuration under which an LLM writes a set."""
    llm = cfg.targets[name].llm or cfg.base.model.llm
    return replace(cfg.base, name=f"{cfg.name}-{name}", run_dir=str(paths.writer(name)), model=replace(cfg.base.model, llm=llm))


def arm_config(cfg: StudyConfig, arm: Arm, paths: Paths) -> DestaConfig:
    """The configuration of an arm. Apart from its folder, the targets and LoRA it is the recipe's."""
    base = cfg.base
    model = replace(base.model, lora=replace(base.model.lora, enabled=arm.lora))
    data = replace(base.data, manifest=str(paths.targets(arm.targets)))
    return replace(base, name=f"{cfg.name}-{arm.name}", run_dir=str(paths.arm(arm)), model=model, data=data)


def share(paths: Paths, folder: Path) -> None:
    """Make a run directory that uses the study's corpus and taps."""
    folder.mkdir(parents=True, exist_ok=True)
    (paths.root / "taps").mkdir(exist_ok=True)
    for name in ("corpus", "taps"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", name), target_is_directory=True)
