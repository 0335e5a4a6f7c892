"""The typed configuration of the server (``conf/serve.yaml``)."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


class Transcripts(StrEnum):
    """Who writes the transcript of a clip that comes without one."""

    own = "own"  # the decoder that belongs to the model's encoder: Whisper's (shares the connector's pass where that is padded to 30 s) or a Canary's
    whisper = "own"  # its name from when there was no other
    off = "off"  # nobody: a clip without the caller's transcript has none


@dataclass
class LimitsConfig:
    """What one request may be, and how many are taken at once."""

    max_body_mib: float = 32.0  # MiB of a request's body; more is 413
    max_audio_seconds: float = 300.0  # sound in a request over all its clips; more is 413
    max_clips: int = 8  # clips in a request; more is 413
    max_blocks: int = 16  # audio blocks (windows of at most 30 s) in a request; more is 413
    max_text_chars: int = 100_000  # characters of all messages together; more is 413
    max_new_tokens: int = 1024  # tokens of an answer; a request that asks for more gets this many
    default_new_tokens: int = 512  # tokens of an answer where the request does not say
    max_uploads: int = 16  # bodies being received and decoded at the same time (as many as a batch holds); more is 429
    max_queue: int = 64  # requests that wait for a place in the batch; more is 503
    max_queue_seconds: float = 120.0  # a request that waited longer for its turn is given up with 503
    upload_seconds: float = 60.0  # a body must have arrived after so long; else 408


@dataclass
class AccessConfig:
    """Who may ask, and what the server may read besides the request itself."""

    api_key_env: str = "NEMO_DESTA_API_KEY"  # environment variable with the API keys, separated by commas; empty or not set = no key is asked for
    allowed_url_hosts: list[str] = field(default_factory=list)  # hosts (name or name:port) from which `audio_url` may be fetched; empty = none
    allowed_audio_dirs: list[str] = field(default_factory=list)  # folders from which `audio_url: file://` may be read; empty = none
    url_seconds: float = 20.0  # a clip must have been fetched from its address after so long; else 400
    cors_origins: list[str] = field(default_factory=list)  # other web sites whose pages may call the server; empty = its own page only


@dataclass
class ServeConfig:
    """Root of the server's configuration."""

    checkpoint: str = MISSING  # checkpoint directory, a training run (its last checkpoint), owner/name on the hub, or tiny-random (a made model)
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 = all of the machine's
    port: int = 8000  # 0 = a free one, which the log names
    served_model_name: str | None = None  # id of the model in the API; null = from the checkpoint's name
    llm: str | None = None  # another place of the checkpoint's LLM (hf://, asset:// or directory); null = as the checkpoint says
    encoder: str | None = None  # another place of the checkpoint's encoder; null = as the checkpoint says
    device: str = "auto"  # auto (a GPU where there is one) | cpu | cuda | cuda:N
    num_threads: int = 0  # CPU threads of torch; 0 = leave as it is
    max_batch_size: int = 16  # requests that are answered at the same time, token by token
    max_batch_tokens: int = 65_536  # prompt and answer tokens of all running requests together: bounds the memory of keys and values
    transcripts: Transcripts = Transcripts.own  # of clips that come without one: own | off
    system_prompt: str | None = "Focus on the audio clips and instructions."  # put before conversations with audio that have no system message; null = none
    web: bool = True  # serve the demo page at /
    shutdown_seconds: float = 30.0  # time that running answers get to end after SIGTERM or Ctrl-C
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    access: AccessConfig = field(default_factory=AccessConfig)


def typed_serve(cfg: DictConfig) -> ServeConfig:
    """The composed configuration as plain dataclasses.

    Raises:
        omegaconf.errors.OmegaConfBaseException: an unknown key, or a value of another type.
        ValueError: a value that makes no sense; the message names the key.
    """
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ServeConfig), OmegaConf.to_container(cfg, resolve=True)))
    assert isinstance(config, ServeConfig)
    check(config)
    return config


def check(config: ServeConfig) -> None:
    """Refuse values that no server can run with.

    Raises:
        ValueError: the first such value, by its key.
    """
    limits = config.limits
    whole = {"max_batch_size": config.max_batch_size, "max_batch_tokens": config.max_batch_tokens}
    whole |= {f"limits.{key}": value for key, value in vars(limits).items() if isinstance(value, int)}
    for key, value in whole.items():
        if value < 1:
            raise ValueError(f"{key}={value}: it must be at least 1")
    for key in ("max_body_mib", "max_audio_seconds", "max_queue_seconds", "upload_seconds"):
        if getattr(limits, key) <= 0:
            raise ValueError(f"limits.{key}={getattr(limits, key)}: it must be positive")
    if not 0 <= config.port <= 65535:
        raise ValueError(f"port={config.port}: it must lie between 0 and 65535")


ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
