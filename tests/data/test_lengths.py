"""The lengths of examples, found without loading them where that can be."""

import pytest
import torch
from torch.utils.data import Dataset, Subset

from clarion import ClarionError
from clarion.data.lengths import lengths_of

datasets = pytest.importorskip("datasets")

TEXTS = [[1, 2, 3], [4], [5, 6]]
ENTRIES = {"input_ids": TEXTS, "words": ["a", "bcd", ""], "size": [7, 8, 9]}
ROWS = [dict(zip(ENTRIES, values, strict=True)) for values in zip(*ENTRIES.values(), strict=True)]


class Own(Dataset):
    def __init__(self, rows, **attributes):
        self.rows, self.loaded = rows, []
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.loaded.append(index)
        return self.rows[index]


@pytest.mark.parametrize(
    ("by", "lengths"),
    [
        ("length", [3, 1, 2]),
        ("input_ids", [3, 1, 2]),
        ("words", [1, 3, 0]),
        ("size", [7, 8, 9]),
        (lambda row: 10 * len(row["input_ids"]), [30, 10, 20]),
    ],
)
@pytest.mark.parametrize("kind", ["table", "list", "own", "subset"])
def test_lengths_are_those_of_the_entry(kind, by, lengths):
    table = datasets.Dataset.from_dict(ENTRIES)
    dataset = {"table": table, "list": ROWS, "own": Own(ROWS), "subset": Subset(table, [2, 0])}[
        kind
    ]

    found = lengths_of(dataset, by)

    assert found.tolist() == ([lengths[2], lengths[0]] if kind == "subset" else lengths)


def test_a_table_is_not_loaded_and_a_column_of_lengths_goes_first():
    def fail(batch):
        raise AssertionError("loaded")

    table = datasets.Dataset.from_dict({**ENTRIES, "length": [30, 10, 20]})

    assert lengths_of(table.with_transform(fail), "length").tolist() == [30, 10, 20]
    assert lengths_of(table.select([2, 1]), "input_ids").tolist() == [2, 1]


def test_an_attribute_of_lengths_is_taken_and_others_are_loaded_once():
    told, untold = Own(ROWS, lengths=[3, 1, 2]), Own([(torch.ones(n, 2), 0) for n in (4, 5)])

    assert lengths_of(told, "length").tolist() == [3, 1, 2]
    assert told.loaded == []
    assert lengths_of(untold, "length").tolist() == [4, 5]
    assert untold.loaded == [0, 1]


@pytest.mark.parametrize("by", ["length", lambda row: len(row["input_ids"])])
def test_a_part_is_measured_alone_and_each_row_of_it_once(by):
    dataset = Own([{"input_ids": [0] * n} for n in range(20)])
    part = Subset(Subset(dataset, [19, 5, -7, 5, 2]), [3, 2, 0, 1])

    assert lengths_of(part, by).tolist() == [5, 13, 19, 5]
    assert sorted(dataset.loaded) == [5, 13, 19]
    told = Own(ROWS, lengths=[3, 1, 2])
    assert lengths_of(Subset(told, [2, 2]), "length").tolist() == [2, 2]
    assert lengths_of(Subset(dataset, []), by).tolist() == []


@pytest.mark.parametrize("rows", [[64, 7, -1, 7], [*range(64, -1, -1)]])
def test_holes_of_a_table_count_where_they_are_used(rows):
    texts = ["a" * n for n in range(65)]
    table = datasets.Dataset.from_dict({"text": [*texts, None]}).select(range(65))
    with_hole = datasets.Dataset.from_dict({"text": [*texts, None, None]})

    found = lengths_of(Subset(table, rows), "text")

    assert found.tolist() == [len(texts[row]) for row in rows]
    used = [row if row >= 0 else 64 for row in rows]
    assert torch.equal(lengths_of(Subset(with_hole, used), "text"), found)
    with pytest.raises(ClarionError, match='2 examples have no "text"'):
        lengths_of(Subset(with_hole, [*used, 65, -1]), "text")


def test_the_first_of_a_pair_may_be_a_mapping():
    pairs = [({"input_ids": [0] * n, "mask": [1] * n, "size": 9 - n}, n % 2) for n in (5, 3, 4)]

    assert lengths_of(pairs, "length").tolist() == [5, 3, 4]
    assert lengths_of(pairs, "size").tolist() == [4, 6, 5]
    with pytest.raises(ClarionError, match=r'has no "sise"; did you mean "size"'):
        lengths_of(pairs, "sise")


@pytest.mark.parametrize("examples", [[([1, 2], 0)], [[1, 2]], [torch.ones(2)]])
def test_examples_without_names_have_no_entry_of_a_name(examples):
    assert lengths_of(examples, "length").tolist() == [2]
    with pytest.raises(ClarionError, match=r'without names, so it has no "text"\. Pass "length"'):
        lengths_of(examples, "text")


def test_a_function_that_tells_no_length_is_named_with_the_row():
    with pytest.raises(
        ClarionError, match="bucket_by returned a list for an example of train"
    ) as c:
        lengths_of(Subset(ROWS, [2]), lambda row: row["input_ids"], "train")
    assert c.value.__notes__ == ["This happened while bucket_by measured row 2 of train."]
    with pytest.raises(KeyError) as c:
        lengths_of(ROWS, lambda row: row["text"], "train")
    assert c.value.__notes__ == ["This happened while bucket_by measured row 0 of train."]


def test_mistakes_are_named():
    table = datasets.Dataset.from_dict(ENTRIES)
    with pytest.raises(ClarionError, match='has no "lenght"; did you mean "length"'):
        lengths_of(table, "lenght", "train")
    with pytest.raises(ClarionError, match=r'train has no "inputs_ids"; did you mean "input_ids"'):
        lengths_of(table, "inputs_ids", "train")
    with pytest.raises(ClarionError, match=r'has no "length"\. It has "words"'):
        lengths_of([{"words": "a"}], "length")
    with pytest.raises(ClarionError, match="bucket_by is an int"):
        lengths_of(table, 3)
    with pytest.raises(ClarionError, match="an example, an object, has no length"):
        lengths_of([object()], "length")
    holes = datasets.Dataset.from_dict({"length": [1, None]})
    with pytest.raises(ClarionError, match='1 examples have no "length"'):
        lengths_of(holes, "length")
