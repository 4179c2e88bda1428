"""Predictions as one array, batch by batch, and in a file."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clarion import Callback, ClarionError, Model
from clarion.data.joining import Memory

torch.manual_seed(0)
X, Y = torch.randn(25, 4), torch.randint(0, 3, (25,))
DATA = TensorDataset(X, Y)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return {"scores": self.layer(x), "size": x.norm(dim=1)}


class Notes(Callback):
    def __init__(self):
        super().__init__()
        self.events = []

    def on_predict_begin(self, logs):
        self.events.append("begin")

    def on_predict_batch_end(self, batch_number, logs):
        self.events.append(batch_number)

    def on_predict_end(self, logs):
        self.events.append("end")


def model_of(network=None):
    torch.manual_seed(1)
    return Model(network or nn.Linear(4, 3), None)


WAYS = {
    "predict": lambda model, **kwargs: model.predict(X, batch_size=8, **kwargs),
    "predict_dataset": lambda model, **kwargs: model.predict_dataset(
        DATA, batch_size=8, has_ground_truth=True, **kwargs
    ),
    "predict_generator": lambda model, **kwargs: model.predict_generator(
        (batch for batch in DataLoader(DATA, 8)), has_ground_truth=True, **kwargs
    ),
}
each_way = pytest.mark.parametrize("predict", WAYS.values(), ids=WAYS)


@each_way
def test_a_stream_gives_the_batches_of_the_whole(predict):
    model = model_of()

    stream = list(predict(model, stream=True, verbose=False))

    assert [len(batch) for batch in stream] == [8, 8, 8, 1]
    assert np.array_equal(np.concatenate(stream), predict(model, verbose=False))
    assert np.array_equal(np.concatenate(stream), model.network(X).detach().numpy())


class Reusing(nn.Linear):
    """Fills the same memory for every batch."""

    def __init__(self):
        super().__init__(4, 3)
        self.room = torch.zeros(8, 3)

    def forward(self, x):
        return self.room[: len(x)].copy_(super().forward(x))


@pytest.mark.parametrize("convert_to_numpy", [True, False])
@pytest.mark.parametrize("how", [{"stream": True}, {"concatenate_returns": False}])
@each_way
def test_batches_that_are_kept_stay_as_they_were(predict, how, convert_to_numpy):
    model = model_of(Reusing())
    expected = nn.functional.linear(X, model.network.weight, model.network.bias).detach()
    batches = list(predict(model, verbose=False, convert_to_numpy=convert_to_numpy, **how))
    assert len(batches) == 4
    assert np.array_equal(np.concatenate(batches), expected.numpy())


def test_what_a_batch_gave_stays_as_it_was():
    model = model_of(Reusing())
    first = model.predict_on_batch(X[:8])
    before = first.copy()
    model.predict_on_batch(X[8:16])
    assert np.array_equal(first, before)


def test_outputs_that_make_no_array_stay_as_they_were():
    class Uneven(Reusing):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)[:, : 1 + self.calls % 2]

    model = model_of(Uneven())
    expected = nn.functional.linear(X, model.network.weight, model.network.bias).detach()
    batches = model.predict(X, batch_size=8, verbose=False)
    for found, rows, width in zip(batches, expected.split(8), [2, 1, 2, 1], strict=True):
        assert np.array_equal(found, rows[:, :width].numpy())


def test_a_stream_gives_targets_and_tensors_when_asked():
    model = model_of()
    stream = model.predict_dataset(
        DATA, stream=True, return_ground_truth=True, convert_to_numpy=False, verbose=False
    )

    (prediction, target), *rest = stream

    assert rest == []
    assert torch.equal(target, Y)
    # The user's own tensors: they take part in gradients like any other.
    weight = torch.ones(3, requires_grad=True)
    (prediction * weight).sum().backward()
    assert torch.allclose(weight.grad, prediction.sum(0))


def test_between_the_batches_of_a_stream_the_network_and_gradients_are_as_before():
    model = model_of(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)))
    model.network.train()
    model.network[0].eval()

    for _ in model.predict(X, batch_size=8, stream=True, verbose=False):
        assert [module.training for module in model.network.modules()] == [True, False, True]
        assert torch.is_grad_enabled()


def test_a_stream_calls_the_hooks_and_ends_when_it_is_closed():
    notes, loader_ended = Notes(), []

    def batches():
        try:
            yield from X.split(5)
        finally:
            loader_ended.append(True)

    stream = model_of().predict_generator(batches(), stream=True, callbacks=[notes], verbose=False)
    assert notes.events == []
    next(stream), next(stream)
    assert notes.events == ["begin", 1, 2]
    stream.close()

    assert notes.events == ["begin", 1, 2, "end"]
    assert loader_ended == [True]
    assert list(stream) == []


def test_a_stream_says_at_once_what_is_wrong_with_its_arguments():
    with pytest.raises(ClarionError, match="steps"):
        model_of().predict(X, stream=True, steps=0, verbose=False)


def test_an_error_in_a_stream_is_announced_and_the_mode_put_back():
    class Fails(Notes):
        def on_predict_batch_end(self, batch_number, logs):
            raise OSError("disk")

    model = model_of()
    model.network.train()
    with pytest.raises(OSError, match="disk"):
        next(model.predict(X, stream=True, callbacks=[Fails()], verbose=False))

    assert model.network.training


@each_way
def test_predictions_go_into_a_file_that_numpy_reads(predict, tmp_path):
    model, path = model_of(), tmp_path / "p.npy"

    mapped = predict(model, out=path, verbose=False)

    assert isinstance(mapped, np.memmap)
    for found in (mapped, np.load(path)):
        assert np.array_equal(found, predict(model, verbose=False))


def test_targets_come_back_beside_a_file(tmp_path):
    mapped, targets = model_of().predict_dataset(
        DATA, out=str(tmp_path / "p.npy"), return_ground_truth=True, verbose=False
    )

    assert mapped.shape == (25, 3)
    assert np.array_equal(targets, Y.numpy())


def test_several_outputs_do_not_go_into_one_file(tmp_path):
    path = tmp_path / "p.npy"

    with pytest.raises(ClarionError, match=r"out=.*p.npy' holds one array.*prediction_key"):
        model_of(TwoOutputs()).predict(X, out=path, verbose=False)
    assert list(tmp_path.iterdir()) == []

    chosen = Model(TwoOutputs(), None, prediction_key="size")
    assert np.array_equal(chosen.predict(X, out=path, verbose=False), X.norm(dim=1).numpy())


@pytest.mark.parametrize(
    "wrong", [{"stream": True}, {"concatenate_returns": False}, {"convert_to_numpy": False}]
)
def test_a_file_contradicts_other_forms(wrong, tmp_path):
    (name,) = wrong
    with pytest.raises(ClarionError, match=f"{name}=.* contradicts"):
        model_of().predict(X, out=tmp_path / "p.npy", verbose=False, **wrong)


def test_one_array_is_made_for_all_batches():
    """Nothing is kept twice: the array has the rows of the data, and is not made of parts."""
    made = []
    resize = Memory.resize

    def counted(memory, rows, like, kept):
        made.append((rows, *like.shape[1:]))
        return resize(memory, rows, like, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "resize", counted)
        model_of().predict(X, batch_size=4, verbose=False)
        model_of().predict_generator(DataLoader(X, 4), verbose=False)

    assert made == [(25, 3), (25, 3)]


@pytest.mark.parametrize(
    ("loader", "steps", "rows"),
    [
        (lambda: DataLoader(X, 4), 3, 12),
        (lambda: DataLoader(X, 4), 9, 33),  # all 25, then the first two batches again
        (lambda: DataLoader(X, 4, drop_last=True), None, 24),
        (lambda: list(X.split(4)), None, 25),
        (lambda: iter(X.split(4)), None, 25),
    ],
)
def test_the_rows_are_those_of_the_batches_taken(loader, steps, rows):
    predictions = model_of().predict_generator(loader(), steps=steps, verbose=False)

    assert predictions.shape == (rows, 3)
