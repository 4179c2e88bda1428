"""Texts of different lengths, padded to the longest of their batch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from clarion.data.routing import inner_network
from clarion.errors import DataError, quoted

__all__ = ["Padding", "padding_of"]

_IGNORED = -100  # the target that losses pass over
_ZERO = ("attention_mask", "token_type_ids", "position_ids", "decoder_attention_mask")
_TOKENS = ("input_ids", "decoder_input_ids")


class Padding:
    """What makes a batch of examples: as torch does, but what is known how to pad is padded.

    That is vectors of integers in examples that are mappings: tokens, masks, and targets, which
    get -100. A mask of what is no padding is added where the network takes one.

    Args:
        token: What tokens are padded with; None if that is not known.
        target_keys: The keys of the target.
        adds_mask: Whether the network takes an ``attention_mask``.
    """

    def __init__(
        self, token: int | None, target_keys: Sequence[str] = ("labels",), *, adds_mask: bool = True
    ) -> None:
        self._values: dict[str, int | None] = dict.fromkeys(_TOKENS, token)
        self._values |= dict.fromkeys(_ZERO, 0) | dict.fromkeys(target_keys, _IGNORED)
        self._values["special_tokens_mask"] = 1
        self._adds_mask = adds_mask

    def __call__(self, examples: list[Any]) -> Any:
        """Return a batch of the examples.

        Raises:
            DataError: If an entry differs in length and it is not known how to pad it.
        """
        if not isinstance(examples[0], Mapping):
            return default_collate(examples)
        columns = {key: [example[key] for example in examples] for key in examples[0]}
        batch = {key: self._collated(key, values) for key, values in columns.items()}
        ids = columns.get("input_ids")
        if (
            ids is not None
            and _is_ragged(ids)
            and self._adds_mask
            and "attention_mask" not in batch
        ):
            batch["attention_mask"] = _padded([torch.ones(len(row)).long() for row in ids], 0)
        return batch

    def _collated(self, key: str, values: list[Any]) -> Any:
        if key in self._values and all(isinstance(value, list | np.ndarray) for value in values):
            values = [_as_tensor(key, value) for value in values]
        if not _is_ragged(values):
            return default_collate(values)
        if any(not isinstance(value, Tensor) or value.ndim != 1 for value in values):
            raise DataError(
                f'The examples of a batch differ in the length of "{key}", and only vectors are '
                f"padded. {_REMEDY}"
            )
        if self._values.get(key) is None:
            known = quoted([name for name, value in self._values.items() if value is not None])
            token = ", whose network.config.pad_token_id is None" if key in _TOKENS else ""
            raise DataError(
                f'The examples of a batch differ in the length of "{key}"{token}; it is known how '
                f"to pad {known}. {_REMEDY}"
            )
        return _padded(values, self._values[key])


_REMEDY = (
    "Pass a collate_fn that pads, such as DataCollatorWithPadding(tokenizer) of transformers; what "
    "the network does not take is better left out of the dataset, as remove_columns does."
)


def padding_of(network: nn.Module, target_keys: Sequence[str]) -> Padding | None:
    """Return how texts are padded for a network of transformers; None for other networks.

    Args:
        network: The network; its ``config`` knows the token.
        target_keys: The keys of the target.
    """
    config: Any = getattr(network, "config", None)
    if config is None or not hasattr(config, "pad_token_id"):
        return None
    token = config.pad_token_id
    forward = inspect.signature(inner_network(network).forward)
    return Padding(
        token if isinstance(token, int) else None,
        target_keys,
        adds_mask="attention_mask" in forward.parameters,
    )


def _is_ragged(values: list[Any]) -> bool:
    arrays = (Tensor, np.ndarray)
    if not all(
        isinstance(value, list) or (isinstance(value, arrays) and value.ndim) for value in values
    ):
        return False
    return len({value.shape if isinstance(value, arrays) else len(value) for value in values}) > 1


def _as_tensor(key: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f'"{key}" of an example makes no tensor ({error}), and only vectors are padded. '
            f"{_REMEDY}"
        ) from error


def _padded(rows: list[Tensor], value: Any) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
