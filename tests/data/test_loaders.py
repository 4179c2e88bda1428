"""Loaders for whatever carries data."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from recording import Recorder
from scipy import sparse
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset as TorchTensorDataset,
)

from clarion import ClarionError, TensorDataset
from clarion.data.arrays import ArrayBatches
from clarion.data.loaders import (
    any_loader,
    array_loader,
    check_iterable,
    check_steps,
    dataset_loader,
    num_batches,
)


class Squares(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, index**2


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((float(i), i) for i in range(5))


# --- array_loader --------------------------------------------------------------------------------


def test_one_entry_gives_bare_batches_and_several_give_tuples():
    x = np.arange(4)

    assert next(iter(array_loader({"x": x}, batch_size=2))).tolist() == [0, 1]
    pair = next(iter(array_loader({"x": x, "y": x + 10}, batch_size=2)))
    assert type(pair) is tuple
    assert pair[1].tolist() == [10, 11]


def test_plain_options_slice_and_others_go_to_a_data_loader():
    x = np.arange(6)

    assert isinstance(array_loader({"x": x}, batch_size=2, drop_last=True), ArrayBatches)
    loader = array_loader({"x": x}, batch_size=2, sampler=SubsetRandomSampler([1]), shuffle=True)
    assert isinstance(loader, DataLoader)
    assert [batch[0].tolist() for batch in loader] == [[1]]


def test_a_batch_sampler_excludes_what_it_replaces():
    loader = array_loader(
        {"x": np.arange(6)}, batch_size=2, shuffle=True, batch_sampler=[[0, 5], [3]]
    )

    assert [batch[0].tolist() for batch in loader] == [[0, 5], [3]]


def test_a_collate_fn_gets_the_examples():
    loader = array_loader({"x": np.arange(4)}, batch_size=2, collate_fn=list)

    assert [[int(item) for (item,) in batch] for batch in loader] == [[0, 1], [2, 3]]


def test_no_examples():
    with pytest.raises(ValueError, match=r"x and y hold no examples \(length 0\)"):
        array_loader({"x": np.ones((0, 2)), "y": np.ones(0)})
    with pytest.raises(ValueError, match=r"^x holds no examples \(length 0\)"):
        array_loader({"x": np.ones((0, 2))})


def test_an_argument_that_a_data_loader_does_not_have():
    with pytest.raises(
        TypeError, match='dataloader_kwargs: DataLoader has no argument "batchsize"; did you mean'
    ):
        array_loader({"x": np.ones(3)}, batchsize=2)


def test_arguments_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"do not fit DataLoader: .*num_workers"):
        array_loader({"x": np.ones(3)}, persistent_workers=True)


# --- dataset_loader ------------------------------------------------------------------------------


def test_examples_by_index_are_collated():
    x, y = next(iter(dataset_loader(Squares(), "data", batch_size=3)))

    assert (x.tolist(), y.tolist()) == ([0, 1, 2], [0, 1, 4])


def test_a_list_of_examples_is_a_dataset():
    x, y = next(iter(dataset_loader([(1.0, 2), (3.0, 4)], "data", batch_size=2)))

    assert (x.tolist(), y.tolist()) == ([1.0, 3.0], [2, 4])


def test_an_iterable_dataset_is_not_shuffled():
    x, _ = next(iter(dataset_loader(Stream(), "data", batch_size=5, shuffle=True)))

    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("cls", [TensorDataset, TorchTensorDataset])
def test_tensor_datasets_are_sliced(cls):
    loader = dataset_loader(cls(torch.arange(4)), "data", batch_size=3, num_workers=0)

    assert isinstance(loader, ArrayBatches)
    batch = next(iter(loader))
    assert type(batch) is tuple
    assert batch[0].tolist() == [0, 1, 2]


def test_a_subclass_of_a_tensor_dataset_keeps_its_own_items():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * part for part in super().__getitem__(index))

    batch = next(iter(dataset_loader(Doubled(torch.arange(3)), "data", batch_size=3)))

    assert batch[0].tolist() == [0, 2, 4]


def test_hugging_face_datasets_give_tensors():
    data = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]})

    batch = next(iter(dataset_loader(data, "data", batch_size=2)))

    assert batch["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert batch["label"].tolist() == [0, 1]
    assert data.format["type"] is None  # the user's own object stays as it was


def test_hugging_face_streams_give_tensors():
    data = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]]}).to_iterable_dataset()

    batch = next(iter(dataset_loader(data, "data", batch_size=2)))

    assert batch["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_format_or_collate_fn_of_the_users_own_is_kept():
    data = datasets.Dataset.from_dict({"x": [[1.0], [3.0]]})

    batch = next(iter(dataset_loader(data.with_format("numpy"), "data", collate_fn=list)))
    assert isinstance(batch[0]["x"], np.ndarray)
    batch = next(iter(dataset_loader(data, "data", collate_fn=list)))
    assert batch[0]["x"] == [1.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"valid_dataset is empty \(length 0\)"),
        (3, "valid_dataset is an int; a dataset needs __getitem__ and __len__"),
        ((np.ones(3), torch.ones(3)), r"is a tuple of arrays; .*TensorDataset\(x, y\)"),
        (DataLoader(Squares()), "is a DataLoader; .*_generator methods"),
        (
            {"train": Squares()},
            r'a dict with the entries "train".*datasets\["train"\]; a dict',
        ),
        (Squares, "valid_dataset is the class Squares; a dataset needs"),
    ],
)
def test_what_is_no_dataset(data, message):
    with pytest.raises(ValueError, match=message):
        dataset_loader(data, "valid_dataset")


# --- any_loader ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        np.arange(6.0).reshape(3, 2),
        torch.arange(6.0).reshape(3, 2),
        pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [1.0, 3.0, 5.0]}),
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    ],
    ids=["ndarray", "tensor", "frame", "rows"],
)
def test_arrays_of_any_kind(data):
    assert [batch.tolist() for batch in any_loader(data, "x", batch_size=2)] == [
        [[0, 1], [2, 3]],
        [[4, 5]],
    ]


def test_lists_and_dicts_of_arrays():
    assert len(next(iter(any_loader([np.ones(3), np.ones(3)], "x")))) == 2
    assert list(next(iter(any_loader({"a": np.ones(3)}, "x")))) == ["a"]


def test_datasets_become_loaders():
    assert len(any_loader(Squares(), "x", batch_size=2)) == 3
    stream = any_loader(Stream(), "x", batch_size=2)
    assert sum(1 for _ in stream) == 3


def test_iterables_of_batches_are_returned_as_they_are():
    loader = DataLoader(Squares())
    batches = [(torch.ones(2), torch.ones(2))] * 2
    generator = (batch for batch in batches)

    for data in (loader, batches, generator):
        assert any_loader(data, "x") is data


def test_what_carries_no_data():
    with pytest.raises(TypeError, match="x is an int; pass arrays, a dataset, a DataLoader"):
        any_loader(3, "x")


# --- num_batches, check_steps, check_iterable ----------------------------------------------------


def test_the_number_of_batches_may_be_unknown():
    class Unsized(DataLoader):
        def __len__(self):
            raise NotImplementedError

    assert num_batches([1, 2]) == 2
    assert num_batches(iter([1, 2])) is None
    assert num_batches(DataLoader(Stream())) is None
    assert num_batches(Unsized(Squares())) is None


def test_no_batches():
    with pytest.raises(ValueError, match=r"list of batches is empty \(length 0\)"):
        num_batches([])


def test_no_batches_because_none_is_full():
    loader = DataLoader(Squares(), batch_size=8, drop_last=True)
    arrays = ArrayBatches(torch.ones(3), batch_size=8, drop_last=True)
    for empty in (loader, arrays):
        told = "^There are no batches: with drop_last=True .*make batch_size smaller"
        with pytest.raises(ValueError, match=told):
            num_batches(empty)


@pytest.mark.parametrize("steps", [0, -2, 1.5, True, "3"])
def test_steps_are_counts(steps):
    with pytest.raises(ValueError, match=r"validation_steps is .*whole number of at least 1"):
        check_steps("validation_steps", steps)


def test_no_steps_and_numpys_steps_are_fine():
    check_steps("steps", None)
    check_steps("steps", np.int32(3))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (3, "generator is an int, which cannot be iterated over"),
        (Squares(), "generator is a Squares, which cannot be iterated over.*fit_dataset"),
        (np.ones(3), "generator is an ndarray, which does not give batches.*arrays go to fit"),
        (torch.ones(3), "generator is a Tensor, which does not give batches"),
        (pd.DataFrame({"a": [1]}), "generator is a DataFrame, which does not give batches"),
        ({"a": np.ones(3)}, "generator is a dict, which does not give batches"),
        ("data.csv", "generator is a str, which does not give batches"),
        (datasets.Dataset.from_dict({"a": [1]}), "generator is a Dataset, which does not"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_give_batches(loader, message):
    with pytest.raises(TypeError, match=message) as caught:
        check_iterable("generator", loader)
    assert isinstance(caught.value, ClarionError)


def test_what_gives_batches():
    for loader in ([1], (1,), iter([1]), DataLoader(Squares()), Recorder([1])):
        check_iterable("generator", loader)


def test_a_sparse_matrix_alone_is_explained():
    with pytest.raises(ClarionError, match=r"x is a csr_matrix .*Pass x\.toarray\(\)"):
        any_loader(sparse.csr_matrix(np.eye(2)), "x")
