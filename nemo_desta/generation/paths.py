"""Where a run keeps its targets."""

from dataclasses import dataclass
from pathlib import Path

from nemo_desta.config import DestaConfig


@dataclass(frozen=True)
class Paths:
    """Files of a run that concern targets, or of a part of a run on Ray."""

    root: Path
    part: int | None = None

    @classmethod
    def of(cls, config: DestaConfig) -> "Paths":
        """From ``run_dir``."""
        return cls(Path(config.run_dir))

    @property
    def corpus(self) -> Path:
        return self.root / "corpus" / "cuts_train.jsonl.gz"

    @property
    def targets(self) -> Path:
        """Folder of the journal and of what is said about the result."""
        whole = self.root / "targets"
        return whole if self.part is None else whole / "parts" / f"{self.part:06d}"

    @property
    def cuts(self) -> Path:
        return self.root / "targets" / ("cuts_train.jsonl.gz" if self.part is None else f"cuts.{self.part:06d}.jsonl")

    @property
    def review(self) -> Path:
        return self.root / "targets" / "review.jsonl"

    @property
    def manifest(self) -> Path:
        return self.targets / "manifest.json"
