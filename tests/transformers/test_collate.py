"""``TransformerCollator``: pairs of inputs and targets from the examples of a transformer."""

from collections import UserDict
from typing import Any

import pytest
import torch

from clarion.errors import DataError, InvalidTypeError
from clarion.transformers import TransformerCollator

EXAMPLES = [
    {"input_ids": [1, 2], "labels": [0, 1], "sentiment_labels": 3, "length": 2},
    {"input_ids": [3, 4], "labels": [1, 1], "sentiment_labels": 4, "length": 2},
]


def test_one_key_gives_the_entry_and_leaves_it_in_the_inputs() -> None:
    inputs, y = TransformerCollator(y_keys="labels")(EXAMPLES)
    assert y.tolist() == [[0, 1], [1, 1]]
    assert inputs["labels"] is y
    assert inputs["input_ids"].tolist() == [[1, 2], [3, 4]]


def test_no_key_gives_a_vector_of_nan() -> None:
    inputs, y = TransformerCollator()(EXAMPLES)
    assert y.shape == (2,)
    assert y.isnan().all()
    assert "labels" in inputs


def test_several_keys_give_a_dict() -> None:
    _, y = TransformerCollator(y_keys=["labels", "length"])(EXAMPLES)
    assert {key: value.tolist() for key, value in y.items()} == {
        "labels": [[0, 1], [1, 1]],
        "length": [2, 2],
    }


def test_remove_labels_takes_the_target_out_of_the_inputs() -> None:
    inputs, y = TransformerCollator(y_keys="length", remove_labels=True)(EXAMPLES)
    assert y.tolist() == [2, 2]
    assert set(inputs) == {"input_ids", "labels", "sentiment_labels"}


def test_remove_labels_leaves_listed_keys_that_are_no_labels() -> None:
    keys = ["labels", "sentiment_labels", "length"]
    inputs, y = TransformerCollator(y_keys=keys, remove_labels=True)(EXAMPLES)
    assert set(inputs) == {"input_ids", "length"}
    assert list(y) == keys


def test_a_custom_collator_may_return_any_mapping() -> None:
    def collate(examples: list[dict[str, Any]]) -> "UserDict[str, torch.Tensor]":
        return UserDict(input_ids=torch.tensor([e["input_ids"] for e in examples]))

    inputs, y = TransformerCollator(custom_collator=collate)(EXAMPLES)
    assert type(inputs) is dict
    assert inputs["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert len(y) == 2


def test_a_missing_key_is_named_with_the_nearest_one() -> None:
    with pytest.raises(DataError, match=r'no "label"; did you mean "labels"\? It holds "'):
        TransformerCollator(y_keys="label")(EXAMPLES)


def test_a_collator_that_cannot_be_called() -> None:
    with pytest.raises(InvalidTypeError, match="custom_collator is a str"):
        TransformerCollator(custom_collator="pad")  # type: ignore[arg-type]
