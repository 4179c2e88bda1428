"""What evaluating and predicting return, for every combination of flags."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clarion import Callback, Metric, Model, TensorDataset

X = torch.arange(10.0).reshape(5, 2)
Y = torch.zeros(5, 2)
LOSS = (X**2).mean().item()


class Total(Metric):
    """An epoch metric: the sum of all predictions."""

    def __init__(self):
        super().__init__()
        self.reset()

    def update(self, y_pred, y_true):
        self.total += y_pred.sum()

    def compute(self):
        return self.total

    def reset(self):
        self.total = 0.0


def mean(y_pred, y_true):
    return y_pred.mean()


VALUES = {0: [], 1: [4.5], 2: [4.5, 45.0], 3: [4.5, 45.0, 45.0]}
counts = pytest.mark.parametrize("count", VALUES)


def metrics(count):
    """Return the metrics whose values over all data are those of VALUES."""
    return [
        {},
        {"batch_metrics": [mean]},
        {"batch_metrics": [mean], "epoch_metrics": [Total()]},
        {"batch_metrics": [mean, ("sum", Total())], "epoch_metrics": [Total()]},
    ][count]


def model(count=0, **options):
    return Model(nn.Identity(), None, "mse", **metrics(count), **options)


def loader():
    return DataLoader(TensorDataset(X, Y), batch_size=2)


def check_scores(parts, count):
    assert type(parts[0]) is float
    assert parts[0] == pytest.approx(LOSS)
    if count == 1:
        assert type(parts[1]) is float
        assert parts[1] == pytest.approx(4.5)
    if count > 1:
        assert type(parts[1]) is np.ndarray
        assert parts[1].shape == (count,)
        assert parts[1] == pytest.approx(VALUES[count])


@counts
@pytest.mark.parametrize("method", ["evaluate", "evaluate_dataset", "evaluate_generator"])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_evaluate(method, count, flags):
    pred, true, as_dict = flags
    data = {
        "evaluate": (X, Y),
        "evaluate_dataset": (TensorDataset(X, Y),),
        "evaluate_generator": (loader(),),
    }[method]
    size = {} if method == "evaluate_generator" else {"batch_size": 2}

    result = getattr(model(count), method)(
        *data,
        return_pred=pred,
        return_ground_truth=true,
        return_dict_format=as_dict,
        verbose=False,
        **size,
    )

    num_scores = 1 if as_dict or count == 0 else 2
    if num_scores + pred + true == 1:
        result = (result,)
    assert type(result) is tuple
    assert len(result) == num_scores + pred + true
    if as_dict:
        names = ["loss", "mean", "sum", "total"] if count == 3 else ["loss", "mean", "total"]
        expected = dict(zip(names, [LOSS, *VALUES[count]], strict=False))
        time = result[0].pop("time")
        assert time > 0
        assert result[0] == {f"test_{k}": pytest.approx(v) for k, v in expected.items()}
    else:
        check_scores(result, count)
    arrays = result[num_scores:]
    for array, expected in zip(arrays, [X] * pred + [Y] * true, strict=True):
        assert type(array) is np.ndarray
        assert array.tolist() == expected.tolist()


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize("join", [True, False])
def test_predictions_and_targets_as_asked_for(join, convert):
    _, pred, true = model().evaluate_generator(
        loader(),
        return_pred=True,
        return_ground_truth=True,
        concatenate_returns=join,
        convert_to_numpy=convert,
        verbose=False,
    )

    for result, expected in ((pred, X), (true, Y)):
        batches = [result] if join else result
        assert {type(batch) for batch in batches} == {np.ndarray if convert else torch.Tensor}
        assert [len(batch) for batch in batches] == ([5] if join else [2, 2, 1])
        rows = [row for batch in batches for row in batch.tolist()]
        assert rows == expected.tolist()


def test_the_dict_is_that_of_on_test_end():
    class Keeps(Callback):
        def on_test_end(self, logs):
            self.logs = logs

    keeps = Keeps()
    logs = model(3).evaluate(X, Y, return_dict_format=True, callbacks=[keeps], verbose=False)

    assert logs is keeps.logs


# --- predicting ----------------------------------------------------------------------------------


def test_predict_arrays():
    result = model().predict(X, batch_size=2, verbose=False)

    assert type(result) is np.ndarray
    assert result.tolist() == X.tolist()


def test_predict_as_tensors_and_by_batch():
    result = model().predict(
        X, batch_size=2, convert_to_numpy=False, concatenate_returns=False, verbose=False
    )

    assert [type(batch) for batch in result] == [torch.Tensor] * 3
    assert not any(batch.requires_grad for batch in result)


class Inputs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index]


@pytest.mark.parametrize("dataset", [Inputs(), TensorDataset(X)], ids=["bare", "1-tuples"])
def test_predict_a_dataset_of_inputs(dataset):
    assert model().predict_dataset(dataset, batch_size=2, verbose=False).tolist() == X.tolist()


@pytest.mark.parametrize("method", ["predict_dataset", "predict_generator"])
def test_targets_are_passed_over_or_returned(method):
    data = TensorDataset(X, Y) if method == "predict_dataset" else loader()
    predict = getattr(model(), method)

    only = predict(data, has_ground_truth=True, verbose=False)
    both = predict(data, return_ground_truth=True, verbose=False)

    assert only.tolist() == X.tolist()
    assert type(both) is tuple
    assert [part.tolist() for part in both] == [X.tolist(), Y.tolist()]


def test_pairs_without_saying_so_are_explained():
    with pytest.raises(TypeError) as caught:
        model().predict_generator(loader(), verbose=False)
    assert caught.value.__notes__[-1] == (
        "If the batches are pairs (x, y), pass has_ground_truth=True."
    )


def test_steps_cycle_through_the_data():
    result = model().predict_generator([X, X + 1], steps=3, verbose=False)

    assert result.tolist() == [*X.tolist(), *(X + 1).tolist(), *X.tolist()]


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_nothing_is_shuffled(method):
    def order(**options):
        torch.manual_seed(0)
        if method == "predict":
            return model().predict(X, verbose=False, **options)
        return model().evaluate(X, Y, return_pred=True, verbose=False, **options)[1]

    assert order(batch_size=2).tolist() == X.tolist()
    assert order(dataloader_kwargs={"batch_size": 3}).tolist() == X.tolist()


# --- structures ----------------------------------------------------------------------------------


class Structured(nn.Module):
    """Returns a tuple with a dict, and something that is no tensor."""

    def forward(self, x):
        return x, {"double": 2 * x, "list": [x.sum(1)]}, "text"


def test_structures_keep_their_shape():
    first, mapping, text = Model(Structured(), None, None).predict(X, batch_size=2, verbose=False)

    assert first.tolist() == X.tolist()
    assert mapping["double"].tolist() == (2 * X).tolist()
    assert type(mapping["list"]) is list
    assert mapping["list"][0].tolist() == X.sum(1).tolist()
    assert text == ["text"] * 3


class Ragged(nn.Module):
    """Returns as many columns as the batch has rows."""

    def forward(self, x):
        return x.new_ones(len(x), len(x))


def test_predictions_of_different_widths_stay_a_list():
    result = Model(Ragged(), None, None).predict(X, batch_size=2, verbose=False)

    assert type(result) is list
    assert [batch.shape for batch in result] == [(2, 2), (2, 2), (1, 1)]


class Scalar(nn.Module):
    """Returns one number per batch."""

    def forward(self, x):
        return x.sum()


class Changes(nn.Module):
    """Returns something else for all rows but the first ones."""

    def __init__(self, first, later):
        super().__init__()
        self.outputs = [first, later]

    def forward(self, x):
        return self.outputs[bool(x[0, 0] > 0)](x)


FORMS = [
    lambda x: x,
    lambda x: (x, x + 1),
    lambda x: {"a": x},
    lambda x: {"b": x},
    lambda x: x.sum(),
    lambda x: x[:, 0],
]


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize(("first", "later"), [*itertools.permutations(range(len(FORMS)), 2)])
def test_predictions_whose_form_changes_stay_a_list(first, later, convert):
    changes = Model(Changes(FORMS[first], FORMS[later]), None, None)
    result = changes.predict(X, batch_size=2, convert_to_numpy=convert, verbose=False)
    one, *others = result
    assert len(others) == 2
    for rows, batch, form in ((X[:2], one, first), (X[2:4], others[0], later)):
        expected = FORMS[form](rows)
        assert isinstance(batch, np.ndarray | torch.Tensor) or type(batch) is type(expected)
        listed = list(batch.values()) if isinstance(batch, dict) else batch
        wanted = list(expected.values()) if isinstance(expected, dict) else expected
        for ours, theirs in zip(np.atleast_1d(listed), np.atleast_1d(wanted), strict=True):
            assert np.array_equal(ours, theirs)


class Sparse(nn.Linear):
    """Returns a sparse tensor."""

    def forward(self, x):
        return super().forward(x).to_sparse()


class Sequences(nn.Linear):
    """Takes sequences of several lengths as a nested tensor, and sums each."""

    def forward(self, x):
        return torch.nested.to_padded_tensor(super().forward(x), 0.0).sum(1)


def test_sparse_predictions_and_targets():
    def distance(y_pred, y_true):
        return (y_pred.to_dense() - y_true.to_dense()).square().mean()

    torch.manual_seed(0)
    network, dense = Sparse(2, 2), Model(nn.Linear(2, 2), "sgd", distance)
    dense.network.load_state_dict(network.state_dict())
    sparse = Model(network, "sgd", distance, batch_metrics=[("distance", distance)])
    pairs = [(x, y.to_sparse()) for x, y in zip(X.split(2), Y.split(2), strict=True)]
    scores = sparse.evaluate_generator(pairs, verbose=False)
    assert scores == pytest.approx([dense.evaluate(X, Y, batch_size=2, verbose=False)] * 2)
    expected = dense.predict(X, verbose=False)
    assert sparse.predict(X, batch_size=2, verbose=False) == pytest.approx(expected)
    stream = sparse.predict(X, batch_size=2, stream=True, verbose=False)
    assert np.concatenate(list(stream)) == pytest.approx(expected)
    tensors = sparse.predict(X, batch_size=2, convert_to_numpy=False, verbose=False)
    assert tensors.is_sparse
    assert tensors.to_dense().numpy() == pytest.approx(expected)
    sparse.fit_generator(pairs, pairs, epochs=2, verbose=False)
    dense.fit(X, Y, batch_size=2, epochs=2, dataloader_kwargs={"shuffle": False}, verbose=False)
    torch.testing.assert_close(network.weight, dense.network.weight)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_inputs():
    torch.manual_seed(0)
    network, y = Sequences(2, 2), torch.zeros(2, 2)
    inputs = [
        torch.nested.nested_tensor([torch.randn(length, 2), torch.randn(3, 2)])
        for length in (1, 2, 4)
    ]
    expected = torch.cat([network(x) for x in inputs]).detach()
    ragged = Model(network, "sgd", "mse")
    assert ragged.predict_generator(inputs, verbose=False) == pytest.approx(expected.numpy())
    pairs = [(x, y) for x in inputs]
    loss = ragged.evaluate_generator(pairs, verbose=False)
    assert loss == pytest.approx(expected.square().mean().item())
    history = ragged.fit_generator(pairs, pairs, epochs=2, verbose=False)
    assert history[-1]["loss"] < loss


def test_numbers_of_batches_stay_a_list():
    result = Model(Scalar(), None, None).predict(X, batch_size=2, verbose=False)

    assert result == [6.0, 22.0, 17.0]


def test_a_network_in_bfloat16_predicts_float32():
    network = nn.Linear(2, 1).bfloat16()

    assert Model(network, None, None).predict(X.bfloat16(), verbose=False).dtype == np.float32


# --- single batches ------------------------------------------------------------------------------


def trainable(count=0):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.weight * x

    return Model(Net(), "sgd", "mse", **metrics(count))


@pytest.mark.parametrize("method", ["train_on_batch", "evaluate_on_batch"])
@pytest.mark.parametrize("pred", [False, True])
@pytest.mark.parametrize(("count", "values"), [(0, []), (1, [4.5]), (2, [4.5]), (3, [4.5, 45.0])])
def test_on_batch_gives_batch_metrics_only(method, count, values, pred):
    result = getattr(trainable(count), method)(X, Y, return_pred=pred)

    parts = result if values or pred else (result,)
    assert len(parts) == 1 + bool(values) + pred
    assert type(parts[0]) is float
    assert parts[0] == pytest.approx(LOSS)
    if len(values) == 1:
        assert type(parts[1]) is float
    if len(values) > 1:
        assert type(parts[1]) is np.ndarray
    if values:
        assert np.atleast_1d(parts[1]).tolist() == values
    if pred:
        assert type(parts[-1]) is np.ndarray
        assert parts[-1].tolist() == X.tolist()


@pytest.mark.parametrize("method", ["train_on_batch", "evaluate_on_batch"])
def test_on_batch_as_a_dict_has_no_prefix(method):
    logs = getattr(trainable(3), method)(X, Y, return_dict_format=True)

    assert logs == {"loss": pytest.approx(LOSS), "mean": 4.5, "sum": 45.0}
    assert list(logs) == ["loss", "mean", "sum"]


@pytest.mark.parametrize("method", ["train_on_batch", "evaluate_on_batch"])
def test_on_batch_as_tensors(method):
    _, pred = getattr(trainable(), method)(X, Y, return_pred=True, convert_to_numpy=False)

    assert type(pred) is torch.Tensor
    assert not pred.requires_grad


def test_predict_on_batch():
    model = trainable()

    assert model.predict_on_batch(X).tolist() == X.tolist()
    assert type(model.predict_on_batch(X)) is np.ndarray
    tensor = model.predict_on_batch(X.numpy(), convert_to_numpy=False)
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


def test_train_on_batch_makes_one_step():
    model = trainable()
    weight = torch.ones((), requires_grad=True)
    (weight * X).square().mean().backward()

    model.train_on_batch(X, Y)

    expected = weight - 0.01 * weight.grad
    assert model.network.weight.item() == pytest.approx(expected.item())
    before = model.network.weight.item()
    model.evaluate_on_batch(X, Y)
    model.predict_on_batch(X)
    assert model.network.weight.item() == before


def test_train_on_batch_needs_an_optimizer():
    with pytest.raises(ValueError, match=r"optimizer=None, so it cannot train"):
        model().train_on_batch(X, Y)


@counts
def test_on_batch_leaves_nothing_behind_for_the_next_pass(count):
    model = trainable(count)
    clean = model.evaluate(X, Y, return_dict_format=True, verbose=False)

    model.evaluate_on_batch(X + 100, Y)
    again = model.evaluate(X, Y, return_dict_format=True, verbose=False)

    assert {**again, "time": 0} == {**clean, "time": 0}
