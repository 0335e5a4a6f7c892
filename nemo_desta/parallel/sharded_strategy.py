"""Lightning's side of data parallelism with the LLM in shards: it wraps nothing, and the steps reduce their own gradients."""

from lightning.pytorch.strategies import DDPStrategy


class ShardedStrategy(DDPStrategy):
    """Data parallelism with the frozen LLM in shards (FSDP2).

    Not Lightning's `ModelParallelStrategy`: that writes checkpoints of its own form, and here what is trained is whole on every process.
    """

    def model_to_device(self) -> None:
        """The LLM's part first: no device ever holds the whole."""
        self.lightning_module.model.backbone.shard(self.root_device)  # type: ignore[union-attr,operator]
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Nothing is wrapped."""
