"""Build the corpus of a recipe: fetch its packages, cut and label the clips, divide them into training and test.

CPU, about ten minutes for the lean tier; a second run ends at once:

    python examples/prepare_corpus.py --config-name=desta25_mini
    python examples/prepare_corpus.py --config-name=desta25_mini corpus.tier=ci run_dir=runs/ci
"""

import logging
from pathlib import Path

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import say_errors
from nemo_desta.config import typed
from nemo_desta.corpora.mixture import ensure_mixture, read_manifest, summary_table
from nemo_desta.modules.transcriber import WhisperTranscriber

logger = logging.getLogger(__name__)


@hydra_runner(config_path="../conf", config_name="desta25_mini")
def main(raw: DictConfig) -> None:
    """Entry point."""
    logging.getLogger("nemo_desta").setLevel(logging.INFO)
    with say_errors("where it stopped"):
        cfg = typed(raw)
        root = Path(cfg.run_dir) / "corpus"
        ensure_mixture(cfg.corpus, root, WhisperTranscriber.from_pretrained)
        summary = summary_table(read_manifest(root) or {})
    logger.info("corpus in %s\n%s", root, summary)


if __name__ == "__main__":
    main()
