"""The comparative study: the same clips, prompts and steps, with targets of different origin, with and without LoRA (paper section V)."""
