"""Serve a trained model: OpenAI's chat API with audio, and a web page to try it.

    python examples/serve.py checkpoint=tiny-random                                            # a made model, for a first try; page at http://127.0.0.1:8000/
    python examples/serve.py checkpoint=runs/mini/train                                        # a training run: its last checkpoint; two CPU cores
    NEMO_DESTA_API_KEY=secret python examples/serve.py checkpoint=DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B host=0.0.0.0 max_batch_size=32

Needs the extra `serve`: pip install -e '.[serve]'. Limits, keys, metrics and the API's extensions: docs/serving.md.
"""

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import say_errors
from nemo_desta.serving.settings import typed_serve


@hydra_runner(config_path="../conf", config_name="serve")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    with say_errors("from the start"):
        config = typed_serve(cfg)
        from nemo_desta.serving.server import serve  # behind the check of the configuration: it loads torch and the web server

        serve(config)


if __name__ == "__main__":
    main()
