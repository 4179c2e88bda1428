"""Datasets that are arrays at heart give the batches of a DataLoader, without fetching examples."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from clarion.data.arrays import ArrayBatches
from clarion.data.loaders import dataset_loader

datasets = pytest.importorskip("datasets")

X, Y = torch.arange(80.0).reshape(20, 4), torch.arange(20)
TENSORS = TensorDataset(X, Y)


def table():
    return datasets.Dataset.from_dict(
        {
            "input_ids": [[i, i + 1, i + 2] for i in range(20)],
            "grid": [[[i, 1], [2, 3]] for i in range(20)],
            "score": [i / 2 for i in range(20)],
            "flag": [i % 2 == 0 for i in range(20)],
            "labels": list(range(20)),
        }
    )


def batches_of(loader):
    torch.manual_seed(0)
    return [list(b.values()) if isinstance(b, dict) else list(b) for b in loader]


AS_ARRAYS = {
    "subset": Subset(TENSORS, [3, 1, 4, 1, 5]),
    "subset of a subset": Subset(Subset(TENSORS, range(5, 15)), [0, 2, 9]),
    "random split": torch.utils.data.random_split(TENSORS, [15, 5])[0],
    "joined": ConcatDataset([TENSORS, Subset(TENSORS, [7, 7])]),
    "table": table(),
    "shuffled table": table().shuffle(seed=1),
    "part of a table": table().select(range(3, 12)),
    "table of tensors": table().with_format("torch", columns=["labels", "score"]),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", AS_ARRAYS)
def test_the_batches_are_those_of_a_loader_over_the_dataset(name, shuffle):
    dataset = AS_ARRAYS[name]
    plain = dataset
    if hasattr(dataset, "format") and dataset.format["type"] is None:
        plain = dataset.with_format("torch")

    loader = dataset_loader(dataset, "dataset", shuffle=shuffle, batch_size=4)

    assert type(loader) is ArrayBatches
    expected = batches_of(DataLoader(plain, batch_size=4, shuffle=shuffle))
    for found, wanted in zip(batches_of(loader), expected, strict=True):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def doubled(batch):
    return {"labels": [2 * label for label in batch["labels"]]}


NOT_ARRAYS = {
    "transformed": lambda: table().with_transform(doubled),
    "text": lambda: datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [0, 1]}),
    "ragged": lambda: datasets.Dataset.from_dict({"input_ids": [[1], [2, 3]], "labels": [0, 1]}),
    "holes": lambda: datasets.Dataset.from_dict({"score": [1.0, None], "labels": [0, 1]}),
    "numpy": lambda: table().with_format("numpy"),
    "other dtypes": lambda: ConcatDataset([TENSORS, TensorDataset(X.double(), Y)]),
    "a class of one's own": lambda: type("Own", (TensorDataset,), {})(X, Y),
}


@pytest.mark.parametrize("name", NOT_ARRAYS)
def test_other_datasets_are_asked_for_their_examples(name):
    assert type(dataset_loader(NOT_ARRAYS[name](), "dataset", batch_size=4)) is DataLoader


def test_large_tables_stay_where_they_are(monkeypatch):
    monkeypatch.setattr("clarion.data.tables._MOST_BYTES", 100)

    assert type(dataset_loader(table(), "dataset")) is DataLoader


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_in_files_give_the_batches_of_arrays_in_memory(tmp_path, mode, shuffle):
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    batches = {}
    for name, x in (("file", mapped), ("part", mapped[100:]), ("memory", rows)):
        torch.manual_seed(0)
        y = torch.arange(len(x))
        batches[name] = list(ArrayBatches((x, y), 7, shuffle=shuffle))

    assert len(batches["part"]) == 58
    for (x, y), (x_file, y_file) in zip(batches["memory"], batches["file"], strict=True):
        assert torch.equal(x, x_file)
        assert torch.equal(y, y_file)
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


def test_rows_of_files_are_read_in_the_order_in_which_they_stand(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(300.0, dtype=np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    loader, read = ArrayBatches(mapped, 10, shuffle=True), []

    class Spy(torch.Tensor):
        def index_select(self, dim, rows):
            read.append(rows)
            return super().index_select(dim, rows)

    loader.arrays = loader.arrays.as_subclass(Spy)
    list(loader)

    assert read
    assert all(torch.equal(rows, rows.sort().values) for rows in read)
    assert len(torch.cat(read).unique()) == 300


@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_are_put_on_the_device_once_if_they_fit(shuffle, monkeypatch):
    device = torch.device("meta")
    loader = ArrayBatches({"x": X, "y": Y}, 8, shuffle=shuffle)
    assert next(iter(loader))["x"].device.type == "cpu"

    loader.place(device)

    assert {leaf.device.type for leaf in loader.arrays.values()} == {"meta"}
    assert [batch["x"].device.type for batch in loader] == ["meta"] * 3
    assert X.device.type == "cpu"

    monkeypatch.setattr("clarion.data.arrays._ROOM", 100)
    large = ArrayBatches((X, Y), 8, shuffle=shuffle)
    large.place(device)
    assert [leaf.device.type for leaf in large.arrays] == ["cpu", "cpu"]
    assert [batch[0].device.type for batch in large] == ["meta"] * 3


def test_doubles_are_left_to_the_conversion_of_batches():
    loader = ArrayBatches((X.double(), Y), 8)

    loader.place(torch.device("meta"))

    x, y = next(iter(loader))
    assert (x.device.type, y.device.type) == ("cpu", "meta")


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "uint8", "bool", "float16"])
@pytest.mark.parametrize("shape", [(20,), (20, 3)])
def test_every_dtype_is_shuffled(dtype, shape):
    rows = np.random.default_rng(0).integers(0, 2, size=shape).astype(dtype)
    numbers = np.arange(20)

    for x, places in ArrayBatches((rows, numbers), 6, shuffle=True):
        assert np.array_equal(x.numpy(), rows[places])


def test_images_keep_their_memory_format():
    images = torch.randn(8, 3, 4, 4).contiguous(memory_format=torch.channels_last)

    batch = next(iter(ArrayBatches(images, 4, shuffle=True)))

    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["subset", "joined", "table"])
def test_what_is_too_large_to_be_copied_is_fetched_by_a_loader(name, monkeypatch):
    monkeypatch.setattr("clarion.data.tables._MOST_BYTES", 100)
    loader = dataset_loader(AS_ARRAYS[name], "dataset", batch_size=4)
    assert type(loader) is DataLoader
    small = dataset_loader(Subset(TENSORS, [3, 1]), "dataset", batch_size=4)
    assert type(small) is ArrayBatches
