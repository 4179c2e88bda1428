"""The rows of a batch that are one rank's."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from clarion import Batch, DataError
from clarion.distributed.rows import bounds, rows_of


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_every_row_belongs_to_one_rank(size, world_size):
    parts = [range(*bounds(size, rank, world_size)) for rank in range(world_size)]

    assert [row for part in parts for row in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts))


def make_batch():
    rows = torch.arange(5)
    return Batch(
        args=(rows, {"a": rows.numpy(), "scale": 2.0, "texts": list("abcde")}),
        kwargs={"pair": (rows, rows[:, None]), "flag": True, "zero": torch.tensor(3)},
        target=[rows, None],
        size=5,
        weight=rows.float(),
    )


def test_everything_in_a_batch_is_cut_alike():
    batch = rows_of(make_batch(), 1, 2, "Batch 1")

    assert batch.args[0].tolist() == [3, 4]
    assert batch.args[1]["a"].tolist() == [3, 4]
    assert isinstance(batch.args[1]["a"], np.ndarray)
    assert batch.args[1]["texts"] == ["d", "e"]
    assert batch.args[1]["scale"] == 2.0
    assert [part.tolist() for part in batch.kwargs["pair"]] == [[3, 4], [[3], [4]]]
    assert isinstance(batch.kwargs["pair"], tuple)
    assert batch.kwargs["flag"] is True
    assert batch.kwargs["zero"] == 3
    assert batch.target[0].tolist() == [3, 4]
    assert batch.weight.tolist() == [3.0, 4.0]
    assert (batch.size, batch.is_filler) == (2, False)


def test_a_list_of_arrays_of_any_size_has_one_for_each_example():
    images = [torch.zeros(1, height, 4) for height in (2, 5, 3)]
    boxes = [{"boxes": torch.zeros(count, 4)} for count in (1, 0, 2)]
    batch = rows_of(Batch(args=(images,), target=boxes, size=3), 0, 2, "Batch 1")

    assert [image.shape[1] for image in batch.args[0]] == [2, 5]
    assert [len(one["boxes"]) for one in batch.target] == [1, 0]


def test_a_rank_without_rows_gets_a_filler():
    batch = rows_of(Batch(args=(torch.arange(1),), target=torch.arange(1), size=1), 1, 2, "Batch 1")

    assert batch.args[0].tolist() == batch.target.tolist() == [0]
    assert (batch.size, batch.is_filler) == (0, True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.zeros(7, 4, 2),
            r"its args\[0\] has shape \(7, 4, 2\), and the batch has 4 examples",
        ),
        (pack_sequence([torch.ones(2), torch.ones(1)]), r"its args\[0\] is a PackedSequence"),
        (["a", "b"], r"its args\[0\] is a list of 2.*Make it one per row"),
        ({"mask": torch.zeros(3)}, r'its args\[0\]\["mask"\] has shape \(3,\)'),
    ],
)
def test_what_cannot_be_cut_is_named(value, message):
    with pytest.raises(DataError, match=f"Batch 2 cannot be shared between ranks: {message}"):
        rows_of(Batch(args=(value,), size=4), 0, 2, "Batch 2")
