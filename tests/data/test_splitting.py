"""Examples set aside for validation."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset as TorchTensorDataset

from clarion import InvalidArgumentError, TensorDataset
from clarion.data.columns import class_labels
from clarion.data.splitting import Split, divide, part_arrays, part_dataset


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("num", "fraction", "expected"), [(10, 0.2, 2), (3, 0.01, 1), (3, 0.99, 2), (7, 0.5, 4)]
)
def test_parts_are_disjoint_complete_and_of_the_size_asked_for(num, fraction, expected):
    train, valid = divide(num, fraction, None, seeded())
    assert len(valid) == expected
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(num))
    assert train.tolist() == sorted(train.tolist())


def test_a_split_is_random_and_repeats_with_its_generator():
    drawn = [divide(100, 0.2, None, seeded(i))[1].tolist() for i in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_each_class_gives_its_share_as_with_scikit_learn():
    labels = torch.tensor([0] * 83 + [1] * 40 + [2] * 17)
    _, valid = divide(140, 0.25, labels, seeded())
    oracle = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    _, other = next(oracle.split(np.zeros(140), labels.numpy()))
    ours, theirs = labels[valid].bincount(), labels[torch.as_tensor(other)].bincount()
    assert ours.sum() == theirs.sum() == 35
    assert (ours - theirs).abs().max() <= 1
    exact = torch.tensor([83, 40, 17]) * 0.25
    assert ((ours - exact).abs() < 1).all()


def test_every_class_keeps_an_example_to_train_on():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    train, valid = divide(6, 0.9, labels, seeded())
    assert set(labels[train].tolist()) == {0, 1, 2}
    assert len(valid) == 3


def test_labels_that_occur_once_are_drawn_as_one_class():
    _, valid = divide(40, 0.25, torch.arange(40), seeded())
    assert len(valid) == 10
    assert not torch.equal(valid, divide(40, 0.25, torch.arange(40), seeded(1))[1])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, True, "0.2", float("nan")])
def test_a_fraction_that_cannot_work(fraction):
    with pytest.raises(InvalidArgumentError, match=r"validation_split is .*above 0 and below 1"):
        divide(10, fraction, None, seeded())


def test_one_example_cannot_be_split():
    with pytest.raises(InvalidArgumentError, match="at least 2 examples; there is 1"):
        divide(1, 0.5, None, seeded())


def test_a_split_is_kept_while_its_arguments_are_the_same():
    torch.manual_seed(0)
    split = Split()
    first = split.draw(50, 0.2, None, None)
    assert torch.equal(split.draw(50, 0.2, None, None)[1], first[1])
    assert not torch.equal(split.draw(50, 0.2, None, 7)[1], first[1])
    again = Split()
    again.load_state_dict(split.state_dict())
    torch.manual_seed(99)
    assert torch.equal(again.draw(50, 0.2, None, 7)[1], split.indices[1])
    assert len(again.draw(60, 0.2, None, 7)[1]) == 12


def test_an_empty_split_survives_its_state():
    split = Split()
    split.load_state_dict(Split().state_dict())
    assert split.indices is None


def test_arrays_keep_their_rows_together():
    x = {"a": np.arange(20), "b": [torch.arange(20) * 2]}
    y = torch.arange(20) % 2
    split = Split()
    train, valid = part_arrays({"x": x, "y": y}, split, 0.3, 0)
    assert torch.equal(valid["x"]["a"], split.indices[1])
    assert torch.equal(valid["x"]["b"][0], split.indices[1] * 2)
    assert torch.equal(train["y"], split.indices[0] % 2)
    assert valid["y"].bincount().tolist() == [3, 3]


class Plain(Dataset):
    """A dataset without targets at hand."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.tensor(float(i)), torch.tensor(i % 2)


class Vision(Plain):
    """One like those of torchvision."""

    def __init__(self, n):
        super().__init__(n)
        self.targets = [i % 2 for i in range(n)]


@pytest.mark.parametrize("make", [Plain, Vision, lambda n: [Plain(n)[i] for i in range(n)]])
def test_a_dataset_becomes_subsets(make):
    dataset = make(20)
    split = Split()
    train, valid = part_dataset(dataset, "train_dataset", split, 0.2, 1)
    assert isinstance(train, Subset)
    assert [int(x) for x, _ in valid] == split.indices[1].tolist()
    if make is Vision:
        assert sorted(int(y) for _, y in valid) == [0, 0, 1, 1]


@pytest.mark.parametrize("make", [TensorDataset, TorchTensorDataset])
def test_a_dataset_of_tensors_stays_one(make):
    dataset = make(torch.arange(20.0), torch.arange(20) % 2)
    train, valid = part_dataset(dataset, "train_dataset", Split(), 0.2, 1)
    assert type(train) is type(valid) is make
    assert valid.tensors[1].bincount().tolist() == [2, 2]


def test_a_hugging_face_dataset_stays_one():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"x": list(range(20)), "label": [0] * 10 + [1] * 10})
    train, valid = part_dataset(dataset, "x", Split(), 0.2, 1, ("labels", "label"))
    assert type(train) is type(dataset)
    assert sorted(valid["label"][:]) == [0, 0, 1, 1]


def test_a_stream_cannot_be_split():
    class Stream(IterableDataset):
        def __iter__(self):
            yield 1

    with pytest.raises(InvalidArgumentError, match=r"train_dataset is a Stream.*by index"):
        part_dataset(Stream(), "train_dataset", Split(), 0.2, None)


def test_which_targets_are_classes():
    y = torch.arange(6) % 3
    assert torch.equal(class_labels((torch.rand(6), y)), y)
    assert torch.equal(class_labels((torch.rand(6), y.reshape(6, 1))), y)
    assert torch.equal(class_labels({"x": y, "labels": y.numpy()}), y)
    assert torch.equal(class_labels(Subset(Vision(6), [0, 3])), torch.tensor([0, 1]))
    assert class_labels((y, y.float())) is None
    assert class_labels((y, torch.zeros(6, 4, dtype=torch.long))) is None
    assert class_labels(TorchTensorDataset(y)) is None


@pytest.mark.parametrize("kind", ["column", "attribute"])
def test_labels_of_tokens_in_rows_of_different_lengths_are_no_classes(kind):
    rows = [[0, 1, 2][: 1 + i % 3] for i in range(8)]
    if kind == "column":
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_dict({"labels": rows})
    else:
        data = Vision(8)
        data.targets = rows
    assert class_labels(data) is None
