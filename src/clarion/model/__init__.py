"""The model: what users build, train, evaluate and ask for predictions."""

from clarion.model.model import Model

__all__ = ["Model"]
