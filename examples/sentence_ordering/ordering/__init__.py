"""The parts of the sentence ordering example that its two programs share."""

import os

__all__: list[str] = []

# Read once, when transformers, datasets and tokenizers are imported. Everything needed comes with
# packages; to name a model of the Hugging Face hub, set HF_HUB_OFFLINE=0.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
