"""How many batches make an epoch, and what is asked of loaders: exact numbers of calls."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clarion import Callback, ClarionError, Model, TensorDataset

BATCH = (torch.ones(2, 1), torch.ones(2, 1))


class Recorder:
    """A loader that counts the calls to it."""

    def __init__(self, num_batches):
        self.num_batches = num_batches
        self.lens = self.iters = self.nexts = 0

    def __iter__(self):
        self.iters += 1
        return RecorderIterator(self)

    @property
    def calls(self):
        return self.lens, self.iters, self.nexts


class Sized(Recorder):
    def __len__(self):
        self.lens += 1
        return self.num_batches


class RecorderIterator:
    def __init__(self, recorder):
        self.recorder = recorder
        self.given = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.recorder.nexts += 1
        if self.given == self.recorder.num_batches:
            raise StopIteration
        self.given += 1
        return BATCH


class Steps(Callback):
    """Counts the batches of each stage and keeps the parameters of the run."""

    def __init__(self):
        self.train, self.valid, self.test, self.predict = [], 0, 0, 0

    def on_epoch_begin(self, epoch_number, logs):
        self.train.append(0)
        self.valid = 0

    def on_train_batch_end(self, batch_number, logs):
        self.train[-1] += 1

    def on_valid_batch_end(self, batch_number, logs):
        self.valid += 1

    def on_test_batch_end(self, batch_number, logs):
        self.test += 1

    def on_predict_batch_end(self, batch_number, logs):
        self.predict += 1


def model():
    return Model(nn.Linear(1, 1), "sgd", "mse")


def fit(train, valid=None, epochs=2, **options):
    steps = Steps()
    model().fit_generator(train, valid, epochs=epochs, callbacks=[steps], verbose=False, **options)
    return steps


# --- training ------------------------------------------------------------------------------------


def test_a_loader_with_a_length():
    loader = Sized(3)

    steps = fit(loader)

    assert steps.train == [3, 3]
    assert loader.calls == (1, 2, 6)
    assert steps.params == {"epochs": 2, "steps": 3}


def test_a_loader_without_a_length_is_read_to_its_end():
    loader = Recorder(3)

    steps = fit(loader)

    assert steps.train == [3, 3]
    assert loader.calls == (0, 2, 8)
    assert steps.params == {"epochs": 2, "steps": None}


def test_steps_per_epoch_below_the_length():
    loader = Sized(5)

    steps = fit(loader, steps_per_epoch=2)

    assert steps.train == [2, 2]
    assert loader.calls == (0, 2, 4)
    assert steps.params == {"epochs": 2, "steps": 2}


def test_steps_per_epoch_above_the_length_starts_the_loader_again():
    loader = Sized(2)

    steps = fit(loader, epochs=1, steps_per_epoch=5)

    assert steps.train == [5]
    assert loader.calls == (0, 3, 7)


@pytest.mark.parametrize("batches_per_step", [2, 3])
def test_accumulating_reads_no_batch_more(batches_per_step):
    loader = Sized(4)

    fit(loader, epochs=1, steps_per_epoch=3, batches_per_step=batches_per_step)

    assert loader.calls == (0, 1, 3)


def test_an_endless_generator_goes_on_from_epoch_to_epoch():
    given = []

    def endless():
        while True:
            given.append(len(given))
            yield BATCH

    assert fit(endless(), steps_per_epoch=3).train == [3, 3]
    assert given == [0, 1, 2, 3, 4, 5]


def test_a_generator_that_ends_is_one_epoch():
    assert fit((BATCH for _ in range(3)), epochs=1).train == [3]


@pytest.mark.parametrize(
    ("num_batches", "options", "message"),
    [
        (3, {"epochs": 2}, "The train loader in epoch 2 gave no batch: .*read only once"),
        (
            5,
            {"epochs": 2, "steps_per_epoch": 4},
            "train loader in epoch 2 ended after 1 batches of the 4 it should give",
        ),
        (0, {"epochs": 1}, "train loader in epoch 1 gave no batch"),
        (0, {"epochs": 1, "steps_per_epoch": 2}, "train loader in epoch 1 gave no batch"),
    ],
)
def test_a_generator_that_runs_dry(num_batches, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit((BATCH for _ in range(num_batches)), **options)
    assert isinstance(caught.value, ClarionError)


def test_an_empty_loader_does_not_train_on_nothing():
    with pytest.raises(ValueError, match=r"list of batches is empty \(length 0\)"):
        fit([])


def test_an_empty_validation_loader():
    with pytest.raises(ValueError, match=r"is empty \(length 0\)"):
        fit([BATCH], [])


def test_a_data_loader_that_drops_all_it_has():
    loader = DataLoader(TensorDataset(*BATCH), batch_size=8, drop_last=True)
    with pytest.raises(ValueError, match="make batch_size smaller"):
        fit(loader)


# --- validation ----------------------------------------------------------------------------------


def test_validation_takes_the_length_of_its_loader():
    valid = Sized(2)

    steps = fit(Sized(3), valid, steps_per_epoch=1)

    assert steps.valid == 2
    assert valid.calls == (1, 2, 4)
    assert steps.params == {"epochs": 2, "steps": 1, "valid_steps": 2}


def test_validation_steps_go_before():
    valid = Sized(5)

    steps = fit(Sized(3), valid, validation_steps=2)

    assert steps.valid == 2
    assert valid.calls == (0, 2, 4)
    assert steps.params["valid_steps"] == 2


def test_without_a_length_steps_per_epoch_stands_for_validation_steps():
    valid = Recorder(5)

    steps = fit(Sized(3), valid, epochs=1, steps_per_epoch=2)

    assert steps.valid == 2
    assert valid.calls == (0, 1, 2)
    assert steps.params["valid_steps"] == 2


def test_without_any_number_validation_is_read_to_its_end():
    valid = Recorder(4)

    steps = fit(Sized(3), valid, epochs=1)

    assert steps.valid == 4
    assert valid.calls == (0, 1, 5)
    assert "valid_steps" not in steps.params


def test_validation_steps_without_validation_data_are_in_the_parameters():
    steps = fit(Sized(3), validation_steps=7)

    assert steps.valid == 0
    assert steps.params == {"epochs": 2, "steps": 3, "valid_steps": 7}


# --- evaluating and predicting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "steps", "expected", "calls"),
    [
        (Sized(3), None, 3, (1, 1, 3)),
        (Recorder(3), None, 3, (0, 1, 4)),
        (Sized(3), 2, 2, (0, 1, 2)),
        (Sized(2), 5, 5, (0, 3, 7)),
    ],
    ids=["length", "no length", "fewer", "more"],
)
@pytest.mark.parametrize("stage", ["test", "predict"])
def test_steps_of_an_evaluation_and_a_prediction(stage, loader, steps, expected, calls):
    loader.lens = loader.iters = loader.nexts = 0
    counts = Steps()
    options = {"steps": steps, "callbacks": [counts], "verbose": False}

    if stage == "test":
        model().evaluate_generator(loader, **options)
    else:
        model().predict_generator(loader, has_ground_truth=True, **options)

    assert getattr(counts, stage) == expected
    assert loader.calls == calls
    assert counts.params == {"steps": expected if loader.lens or steps else None}


# --- epochs --------------------------------------------------------------------------------------


def test_epochs_run_from_the_initial_one_to_the_last():
    history = model().fit_generator([BATCH], epochs=5, initial_epoch=3, verbose=False)

    assert [logs["epoch"] for logs in history] == [3, 4, 5]


def test_no_epoch_is_left():
    assert model().fit_generator([BATCH], epochs=2, initial_epoch=3, verbose=False) == []
    assert model().fit_generator([BATCH], epochs=0, verbose=False) == []


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("epochs", -1),
        ("epochs", 2.0),
        ("epochs", "3"),
        ("epochs", None),
        ("initial_epoch", 0),
        ("steps_per_epoch", 0),
        ("validation_steps", -3),
        ("batches_per_step", 0),
        ("batches_per_step", 1.5),
    ],
)
def test_numbers_that_are_no_counts(argument, wrong):
    with pytest.raises(ValueError, match=f"{argument} is {wrong!r}; it must be a whole number"):
        model().fit_generator([BATCH], **{"epochs": 1, "verbose": False, argument: wrong})


def test_numpys_counts_are_counts():
    options = {"epochs": np.int64(2), "steps_per_epoch": np.int32(3)}

    assert fit(Sized(5), **options).train == [3, 3]


class Shards(IterableDataset):
    """Five numbers that its workers share."""

    def __len__(self):
        return 5

    def __iter__(self):
        worker = get_worker_info()
        for number in range(worker.id, 5, worker.num_workers):
            yield torch.tensor([float(number)]), torch.zeros(1)


def test_what_workers_share_is_read_to_its_end():
    loader = DataLoader(Shards(), batch_size=5, num_workers=2)
    assert len(loader) == 1  # and each worker ends with a batch of its own
    loss, scores = Model(nn.Identity(), None, "mse").evaluate_generator(
        loader, return_pred=True, verbose=False
    )
    assert sorted(scores.flatten()) == [0, 1, 2, 3, 4]
    assert loss == pytest.approx((1 + 4 + 9 + 16) / 5)
    scores = Model(nn.Identity(), None, None).predict_dataset(
        Shards(), batch_size=5, num_workers=2, has_ground_truth=True, verbose=False
    )
    assert sorted(scores.flatten()) == [0, 1, 2, 3, 4]
    model = Model(nn.Linear(1, 1), "sgd", "mse")
    logs = model.fit_generator([BATCH], loader, epochs=1, steps_per_epoch=1, verbose=False)
    with torch.no_grad():
        squares = model.network(torch.arange(5.0)[:, None]) ** 2
    assert logs[0]["val_loss"] == pytest.approx(float(squares.mean()))
