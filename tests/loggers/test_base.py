from types import SimpleNamespace

import torch

from clarion.engine.logs import Logs
from clarion.loggers.base import Logger


class Listing(Logger):
    def __init__(self, **options):
        super().__init__(**options)
        self.written = []

    def _on_train_begin_write(self, logs):
        self.written.append(("train begin", logs))

    def _on_epoch_begin_write(self, epoch_number, logs):
        self.written.append(("epoch begin", epoch_number, logs))

    def _on_train_batch_end_write(self, batch_number, logs):
        self.written.append(("batch", batch_number, logs))

    def _on_epoch_end_write(self, epoch_number, logs):
        self.written.append(("epoch", epoch_number, logs, self._get_current_learning_rates()))

    def _on_train_end_write(self, logs):
        self.written.append(("train end", logs))

    def _close(self):
        self.written.append("close")


def optimizer(*rates):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def model(*rates, metrics=("acc",)):
    made = optimizer(*rates) if rates else None
    return SimpleNamespace(metrics_names=list(metrics), optimizer=made)


def begun(model, **options):
    logger = Listing(**options)
    logger.set_model(model)
    logger.on_train_begin({})
    return logger


def test_columns():
    results = ["loss", "acc", "val_loss", "val_acc"]
    assert begun(model(0.1)).fieldnames == ["epoch", "time", "lr", *results]
    assert begun(model(0.1), batch_granularity=True).fieldnames == [
        "epoch", "batch", "size", "time", "lr", *results
    ]  # fmt: skip
    assert begun(model(0.1, 0.2)).fieldnames == [
        "epoch", "time", "lr_group_0", "lr_group_1", *results
    ]  # fmt: skip
    assert begun(model()).fieldnames == ["epoch", "time", *results]


def test_validation_sets_with_names_have_columns_after_the_others():
    named = model(0.1)
    named.validation_names = ["clean", "noisy"]
    logger = begun(named)
    assert logger.fieldnames[-4:] == [
        "val_clean_loss", "val_clean_acc", "val_noisy_loss", "val_noisy_acc"
    ]  # fmt: skip
    assert logger.fieldnames[:-4] == begun(model(0.1)).fieldnames
    logger.on_epoch_end(1, {"epoch": 1, "val_noisy_acc": 0.5, "val_other_acc": 0.7})
    assert logger.written[-1][2] == {"epoch": 1, "val_noisy_acc": 0.5}


def test_columns_are_fixed_when_the_training_begins():
    logger = begun(model(0.1, metrics=[]))
    logger.model.metrics_names.append("late")
    logger.on_epoch_end(1, {"epoch": 1, "late": 2.0, "loss": 1.0, "val_loss": None})
    assert logger.written[-1][2] == {"epoch": 1, "loss": 1.0}


def test_the_learning_rate_is_that_of_the_end_of_the_epoch():
    logger = begun(model(0.1))
    logger.model.optimizer.param_groups[0]["lr"] = 0.05
    logger.on_epoch_end(1, {"epoch": 1})
    assert logger.written[-1][3] == {"lr": 0.05}


def test_the_methods_to_override_are_called_in_turn():
    logger = begun(model(0.5), batch_granularity=True)
    logger.on_epoch_begin(3, {})
    assert logger.epoch_number == 3
    logger.on_train_batch_end(1, {"batch": 1, "loss": 0.25, "unknown": 1})
    logger.on_epoch_end(3, {"epoch": 3, "val_acc": 1.0})
    logger.on_train_end({})
    assert logger.written == [
        ("train begin", {}),
        ("epoch begin", 3, {}),
        ("batch", 1, {"batch": 1, "loss": 0.25}),
        ("epoch", 3, {"epoch": 3, "val_acc": 1.0}, {"lr": 0.5}),
        ("train end", {}),
        "close",
    ]


def test_an_error_closes():
    logger = begun(model(0.5))
    logger.on_exception(RuntimeError())
    assert logger.written[1:] == ["close"]


def test_the_epoch_number_starts_anew_with_each_training():
    logger = begun(model(0.5))
    logger.on_epoch_begin(3, {})
    logger.on_train_begin({})
    assert logger.epoch_number == 0


def test_batch_logs_are_read_only_if_batches_are_wanted():
    def logs():
        return Logs({"batch": 1, "size": 2, "time": 0.1}, [(("loss",), ("loss",), torch.ones(()))])

    without, with_batches = logs(), logs()
    begun(model(0.5)).on_train_batch_end(1, without)
    assert without._items.get("loss") is None, "the loss was read from the device"
    logger = begun(model(0.5), batch_granularity=True)
    logger.on_train_batch_end(1, with_batches)
    assert logger.written[-1] == ("batch", 1, {"batch": 1, "size": 2, "time": 0.1, "loss": 1.0})
    assert type(logger.written[-1][2]["loss"]) is float


def test_other_ranks_write_nothing_but_close(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    logger = begun(model(0.5), batch_granularity=True)
    logger.on_epoch_begin(1, {})
    logger.on_train_batch_end(1, {"batch": 1})
    logger.on_epoch_end(1, {"epoch": 1})
    logger.on_train_end({})
    assert logger.written == ["close"]


def test_without_any_method_overridden_nothing_happens(make_model, batches):
    logger = Logger(batch_granularity=True)
    history = make_model().fit_generator(batches, epochs=2, verbose=False, callbacks=[logger])
    assert len(history) == 2
    assert logger.epoch_number == 2
