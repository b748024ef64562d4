"""Pictures, pairs and pipelines in NumPy, Pillow, TFDS and grain. No jax in here."""
