"""The utilities under the path where scripts written for Poutyne import them."""

from clarion.checkpoints.random import (
    load_random_states,
    save_random_states,
    set_deterministic_debug_mode,
    set_seeds,
)
from clarion.console import is_in_jupyter_notebook
from clarion.data.dataset import TensorDataset
from clarion.data.nested import numpy_to_torch, torch_apply, torch_to, torch_to_numpy
from clarion.data.size import get_batch_size, warning_settings

__all__ = [
    "TensorDataset",
    "get_batch_size",
    "is_in_jupyter_notebook",
    "load_random_states",
    "numpy_to_torch",
    "save_random_states",
    "set_deterministic_debug_mode",
    "set_seeds",
    "torch_apply",
    "torch_to",
    "torch_to_numpy",
    "warning_settings",
]
