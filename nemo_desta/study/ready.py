"""What the later stages of a study need, looked for before the first one: a training takes hours, and so does a writer's set of answers."""

import importlib.util

from nemo_desta.assets import resolve_model
from nemo_desta.cli import sentence
from nemo_desta.generation.checks import check_settings
from nemo_desta.generation.engines.tokens import load_chat_tokenizer
from nemo_desta.generation.paths import Paths as RunPaths
from nemo_desta.study.arms import Paths, arms, writer_config
from nemo_desta.study.config import StudyConfig, Writer
from nemo_desta.study.language import load_instructions, ready_rules


def ready(cfg: StudyConfig, paths: Paths) -> None:
    """Look for the package of the adapters, for what the instructions' rules count with, and for the LLM of every writer. What is finished needs none of them.

    Raises:
        ValueError: something is missing, or the settings of the target generation cannot be obeyed; the message says what to do.
        OSError, AssetError: something cannot be fetched.
    """
    _find_peft(cfg, paths)
    if any(not path.exists() for path in (paths.root / "language.json", *(paths.arm(arm) / "eval" / "language.json" for arm in arms(cfg)))):
        ready_rules(load_instructions(cfg.instructions))
    for name, chosen in cfg.targets.items():
        config = writer_config(cfg, name, paths)
        if chosen.writer is Writer.llm and not RunPaths.of(config).manifest.exists():
            check_settings(config.generation)
            _find_writer(name, config.model.llm)


def _find_peft(cfg: StudyConfig, paths: Paths) -> None:
    missing = [arm for arm in arms(cfg) if arm.lora and not (paths.arm(arm) / "eval" / "language.json").exists()]
    if missing and importlib.util.find_spec("peft") is None:
        raise ValueError(f"the arm {missing[0].name} trains LoRA adapters, which needs the peft package: pip install -e '.[lora]', or set lora=[false]")


def _find_writer(name: str, llm: str) -> None:
    try:
        load_chat_tokenizer(resolve_model(llm))
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError  # a hub that does not answer is no mistake of the user's
        raise kind(f"targets.{name} cannot be written by {llm}: {sentence(error)}; or name another LLM by targets.{name}.llm") from error
