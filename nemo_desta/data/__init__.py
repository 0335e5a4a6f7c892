"""From CutSets with self-generated supervisions to packed token batches."""
