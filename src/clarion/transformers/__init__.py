"""The way to Hugging Face transformers that users of poutyne-transformers know.

None of it is needed: a transformers model, a ``datasets`` split and a collate function can be
handed to ``clarion.Model`` as they are.
"""

from clarion.transformers.collate import TransformerCollator
from clarion.transformers.wrappers import MetricWrapper, ModelWrapper, model_loss

__all__ = ["MetricWrapper", "ModelWrapper", "TransformerCollator", "model_loss"]
