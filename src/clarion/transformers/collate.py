"""Examples of a transformer, collated into pairs of inputs and targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from clarion.errors import DataError, InvalidTypeError, quoted, suggestion

__all__ = ["TransformerCollator"]


class TransformerCollator:
    """A ``collate_fn`` that returns ``(inputs, y)``, inputs being a dict of tensors.

    Args:
        y_keys: Which entries of the batch are the target: the key of one, which becomes ``y``; a
            list of keys, which makes ``y`` a dict; or None, and ``y`` is a vector of nan, for
            models that compute their loss themselves.
        custom_collator: What makes a mapping of tensors of a list of examples, for example
            ``transformers.DataCollatorWithPadding(tokenizer)``;
            ``transformers.default_data_collator`` if omitted.
        remove_labels: Whether the target is taken out of the inputs. Of a list of keys only those
            that contain "labels" are.

    Raises:
        InvalidTypeError: If ``custom_collator`` cannot be called.

    Example:
        >>> collate = TransformerCollator(y_keys="labels", custom_collator=lambda rows: rows[0])
        >>> collate([{"input_ids": torch.tensor([[7]]), "labels": torch.tensor([1])}])[1]
        tensor([1])
    """

    def __init__(
        self,
        y_keys: str | Sequence[str] | None = None,
        custom_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        remove_labels: bool = False,
    ) -> None:
        if custom_collator is not None and not callable(custom_collator):
            raise InvalidTypeError(
                f"custom_collator is a {type(custom_collator).__name__}; pass a function from a "
                "list of examples to a mapping of tensors."
            )
        self.y_keys = y_keys
        self.custom_collator = custom_collator
        self.remove_labels = remove_labels

    def __call__(self, examples: list[Any]) -> tuple[dict[str, Any], Any]:
        """Return the inputs, a plain dict, and the target.

        Args:
            examples: What the dataset gave, one entry an example.

        Raises:
            DataError: If the batch has no entry of that key.
        """
        # A tokenizer's BatchEncoding is a mapping but no dict; as a dict it is moved to the device.
        batch = dict(self._collate(examples))
        if self.y_keys is None:
            return batch, torch.full((len(examples),), torch.nan)
        if isinstance(self.y_keys, str):
            return batch, self._take(batch, self.y_keys, self.remove_labels)
        target = {
            key: self._take(batch, key, self.remove_labels and "labels" in key)
            for key in self.y_keys
        }
        return batch, target

    def _collate(self, examples: list[Any]) -> Mapping[str, Any]:
        if self.custom_collator is not None:
            return self.custom_collator(examples)
        from transformers import default_data_collator

        batch: Mapping[str, Any] = default_data_collator(examples)
        return batch

    def _take(self, batch: dict[str, Any], key: str, remove: bool) -> Any:
        if key not in batch:
            raise DataError(
                f'TransformerCollator(y_keys={self.y_keys!r}): a batch has no "{key}"'
                f"{suggestion(key, batch) or '.'} It holds {quoted(batch)}. Collators drop what "
                "is not a number: convert the column, or choose another key."
            )
        return batch.pop(key) if remove else batch[key]
