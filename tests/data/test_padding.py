"""Texts of different lengths in a batch, padded as a network of transformers wants them."""

import numpy as np
import pytest
import torch
from torch import nn

from clarion import ClarionError
from clarion.data.padding import Padding, padding_of

transformers = pytest.importorskip("transformers")

ROWS = [
    {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "labels": [1, 2, 3], "score": 0.5},
    {"input_ids": [8], "token_type_ids": [0], "labels": [4], "score": 1.0},
]


@pytest.mark.parametrize("kind", [lambda value: value, torch.tensor, np.array])
def test_tokens_masks_and_targets_are_padded_by_what_stands_for_nothing(kind):
    rows = [{key: kind(value) for key, value in row.items()} for row in ROWS]

    batch = Padding(9)(rows)

    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["score"].tolist() == [0.5, 1.0]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def test_the_batch_is_that_of_the_collator_of_transformers(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    )
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    rows = [{"input_ids": [2, 5, 3], "labels": [0, 1, 0]}, {"input_ids": [2, 3], "labels": [0, 0]}]
    expected = transformers.DataCollatorForTokenClassification(tokenizer)(
        [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    )

    batch = Padding(tokenizer.pad_token_id)(rows)

    assert batch.keys() == expected.keys()
    for key in batch:
        assert torch.equal(batch[key], expected[key])


def test_what_has_one_length_and_other_examples_are_collated_as_torch_does():
    same = Padding(0)([{"input_ids": torch.arange(2), "labels": 1}] * 2)
    pair = Padding(0)([(torch.ones(2), 1), (torch.ones(2), 0)])

    assert "attention_mask" not in same
    assert same["labels"].tolist() == [1, 1]
    assert pair[0].shape == (2, 2)


def test_a_network_without_masks_gets_none():
    assert "attention_mask" not in Padding(0, adds_mask=False)(ROWS)


def test_unknown_entries_and_tokens_are_named_with_a_remedy():
    rows = [{"input_ids": [1], "tags": torch.ones(2)}, {"input_ids": [2], "tags": torch.ones(1)}]
    with pytest.raises(ClarionError, match=r'differ in the length of "tags".*collate_fn'):
        Padding(0)(rows)
    with pytest.raises(ClarionError, match=r'"input_ids", whose network.config.pad_token_id is No'):
        Padding(None)(ROWS)


@pytest.mark.parametrize(
    "values",
    [
        (torch.ones(1, 2), torch.ones(2, 2)),
        (torch.ones(2, 1), torch.ones(2, 2)),
        ([[1, 2], [3]], [[4], [5]]),  # texts to choose from
        ([torch.ones(2), torch.ones(1)], [torch.ones(1), torch.ones(1)]),
    ],
)
def test_what_is_no_vector_is_refused_with_a_remedy(values):
    with pytest.raises(ClarionError, match=r"only vectors are padded.*remove_columns"):
        Padding(0)([{"input_ids": value} for value in values])


def test_the_token_is_that_of_the_network():
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, pad_token_id=3,
    )  # fmt: skip
    padding = padding_of(transformers.BertForSequenceClassification(config), ("labels",))

    assert padding is not None
    assert padding(ROWS)["input_ids"][1].tolist() == [8, 3, 3]
    assert padding_of(nn.Linear(2, 2), ("labels",)) is None
