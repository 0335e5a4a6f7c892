"""From attributes to text: measured attributes, the seed description of a clip and the prompt pool."""
