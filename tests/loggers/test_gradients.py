import sys
from unittest.mock import MagicMock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from clarion.callbacks.base import Callback
from clarion.errors import CheckpointError, InvalidArgumentError, MissingDependencyError
from clarion.loggers.gradients import (
    AtomicCSVGradientLogger,
    CSVGradientLogger,
    GradientLoggerBase,
    MemoryGradientLogger,
    TensorBoardGradientLogger,
)
from clarion.model import Model

NAMES = ["mean", "var", "min", "abs_min", "max", "abs_max", "l2.0"]

both = pytest.mark.parametrize("logger_class", [CSVGradientLogger, AtomicCSVGradientLogger])


class Oracle(Callback):
    """Keeps the gradients that are left after each step."""

    def __init__(self):
        self.gradients = []

    def on_optimizer_step_end(self, step):
        network = self.model.network
        self.gradients.append({n: p.grad.clone() for n, p in network.named_parameters()})


def fit(model, batches, callbacks, epochs=2, **options):
    return model.fit_generator(
        batches, epochs=epochs, verbose=False, callbacks=callbacks, **options
    )


def statistics(gradient):
    absolute = gradient.abs()
    values = [
        absolute.mean(), absolute.var(), gradient.min(), absolute.min(), gradient.max(),
        absolute.max(), absolute.norm(2.0),
    ]  # fmt: skip
    return dict(zip(NAMES, [value.item() for value in values], strict=True))


def test_the_history_holds_the_gradients_of_each_batch(make_model, batches):
    logger, oracle = MemoryGradientLogger(), Oracle()
    fit(make_model(), batches, [logger, oracle])
    assert list(logger.history) == ["0.weight", "1.weight"]
    for name, records in logger.history.items():
        assert [(each["epoch"], each["batch"]) for each in records] == [
            (epoch, batch) for epoch in (1, 2) for batch in (1, 2, 3, 4)
        ]
        for record, gradients in zip(records, oracle.gradients, strict=True):
            assert list(record) == [*NAMES, "epoch", "batch"]
            expected = statistics(gradients[name])
            assert {key: record[key] for key in NAMES} == pytest.approx(expected)


def test_biases_and_norms_of_ones_choice(make_model, batches):
    logger, oracle = MemoryGradientLogger(keep_bias=True, norm_type=[1, 3.0]), Oracle()
    fit(make_model(), batches, [logger, oracle], epochs=1)
    assert list(logger.history) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    record = logger.history["0.bias"][2]
    assert list(record)[6:8] == ["l1", "l3.0"]
    assert record["l1"] == pytest.approx(oracle.gradients[2]["0.bias"].norm(1).item())


def test_an_accumulated_step_is_one_record_of_the_whole_gradient(make_model, batches):
    logger = MemoryGradientLogger()
    x, y = (torch.cat(parts) for parts in zip(*batches[:3], strict=True))
    fit(make_model(), batches, [logger], epochs=1, batches_per_step=3)
    whole = MemoryGradientLogger()
    fit(make_model(), [(x, y)], [whole], epochs=1)
    records = logger.history["0.weight"]
    assert [record["batch"] for record in records] == [3, 4]
    for key in NAMES:
        assert records[0][key] == pytest.approx(whole.history["0.weight"][0][key], rel=1e-5)


@pytest.mark.parametrize("clipping_first", [False, True])
def test_clipped_gradients_are_recorded_as_the_optimizer_receives_them(
    clipping_first, make_model, batches
):
    class Clip(Callback):
        def on_optimizer_step_begin(self, step):
            nn.utils.clip_grad_norm_(self.model.network.parameters(), 1e-3)

    logger = MemoryGradientLogger()
    fit(make_model(), batches, [Clip(), logger] if clipping_first else [logger, Clip()])
    assert 0 < logger.history["0.weight"][0]["l2.0"] <= 1e-3


def test_every_so_many_steps(make_model, batches):
    logger = MemoryGradientLogger(every=3)
    fit(make_model(), batches, [logger])
    records = logger.history["0.weight"]
    assert [(each["epoch"], each["batch"]) for each in records] == [(1, 3), (2, 2)]


def test_reads_once_per_step_however_many_parameters(make_model, batches, monkeypatch):
    reads = []
    for method in ("tolist", "item", "__float__"):
        real = getattr(torch.Tensor, method)

        def counted(self, real=real):
            reads.append(real)
            return real(self)

        monkeypatch.setattr(torch.Tensor, method, counted)
    counts = []
    for callbacks in ([], [MemoryGradientLogger(keep_bias=True)]):
        reads.clear()
        fit(make_model(), batches, callbacks, epochs=1)
        counts.append(len(reads))
    assert counts[1] - counts[0] == len(batches)


def test_parameters_without_gradient_are_passed_over(batches):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(1, 2), nn.Linear(1, 1)
            self.frozen = nn.Linear(1, 1).requires_grad_(False)

        def forward(self, x):
            return self.frozen(x) + self.used(x).sum(1, keepdim=True)

    torch.manual_seed(0)
    logger = MemoryGradientLogger()
    fit(Model(Half(), "sgd", "mse"), batches, [logger], epochs=1)
    assert {name: len(records) for name, records in logger.history.items()} == {
        "used.weight": 4,
        "unused.weight": 0,
    }


def test_the_history_starts_anew_with_each_training(make_model, batches):
    logger, model = MemoryGradientLogger(), make_model()
    fit(model, batches, [logger], epochs=3)
    fit(model, batches, [logger], epochs=1)
    assert logger.layers == ["0.weight", "1.weight"]
    assert [len(records) for records in logger.history.values()] == [4, 4]


def test_weights_are_the_same_with_and_without(make_model, batches, tmp_path):
    plain, logged = make_model(), make_model()
    fit(plain, batches, [])
    fit(logged, batches, [MemoryGradientLogger(), CSVGradientLogger(tmp_path / "{}.csv")])
    for one, other in zip(plain.network.parameters(), logged.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_base_says_what_to_override(make_model, batches):
    with pytest.raises(NotImplementedError, match="log_stats"):
        fit(make_model(), batches, [GradientLoggerBase()])


def test_log_stats_receives_the_logs_of_the_batch(make_model, batches, recorder):
    seen = []

    class Listing(GradientLoggerBase):
        def log_stats(self, epoch_number, batch_number, logs, layer_stats):
            seen.append((epoch_number, batch_number, dict(logs), list(layer_stats)))

    fit(make_model(), batches, [Listing(), recorder], epochs=1)
    layers = ["0.weight", "1.weight"]
    batch_logs = recorder.logs[:-1]
    assert seen == [(1, log["batch"], log, layers) for log in batch_logs]


def test_fewer_than_every_step_is_an_error():
    with pytest.raises(InvalidArgumentError, match="MemoryGradientLogger got every=0"):
        MemoryGradientLogger(every=0)


def test_other_ranks_log_nothing(make_model, batches, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = MemoryGradientLogger()
    fit(make_model(), batches, [logger, CSVGradientLogger(tmp_path / "{}.csv")])
    assert logger.history == {"0.weight": [], "1.weight": []}
    assert list(tmp_path.iterdir()) == []


# --- CSV -------------------------------------------------------------------------------------


def assert_files_hold(history, tmp_path, read_csv):
    for name, records in history.items():
        rows = read_csv(tmp_path / f"layer_{name}.csv")
        assert list(rows[0]) == ["epoch", "batch", *NAMES]
        assert [{key: float(cell) for key, cell in row.items()} for row in rows] == records


@both
def test_the_files_hold_the_history(logger_class, make_model, batches, tmp_path, read_csv):
    memory, logger = MemoryGradientLogger(), logger_class(str(tmp_path / "layer_{}.csv"))
    fit(make_model(), batches, [memory, logger])
    assert_files_hold(memory.history, tmp_path, read_csv)
    assert len(list(tmp_path.iterdir())) == 2


@both
def test_files_are_appended_to_or_overwritten(
    logger_class, make_model, batches, tmp_path, read_csv
):
    model, path = make_model(), tmp_path / "layer_{}.csv"
    first, second, third = (MemoryGradientLogger() for _ in range(3))
    fit(model, batches, [first, logger_class(path, append=True)])
    fit(model, batches, [second, logger_class(path, append=True)], epochs=3, initial_epoch=2)
    both_histories = {name: first.history[name] + second.history[name] for name in first.history}
    assert_files_hold(both_histories, tmp_path, read_csv)
    fit(model, batches, [third, logger_class(path)])
    assert_files_hold(third.history, tmp_path, read_csv)


@both
def test_an_error_closes_the_files_with_all_rows(
    logger_class, make_model, batches, tmp_path, read_csv, bomb
):
    memory, logger = MemoryGradientLogger(), logger_class(tmp_path / "layer_{}.csv")
    with pytest.raises(RuntimeError, match="boom"):
        fit(make_model(), batches, [memory, logger, bomb(6)])
    assert len(memory.history["0.weight"]) == 6
    assert_files_hold(memory.history, tmp_path, read_csv)
    logger.on_train_end({})


class Keep(Callback):
    """Keeps the state of a logger at the end of the first epoch."""

    def __init__(self, logger):
        self.logger = logger

    def on_epoch_end(self, epoch_number, logs):
        if epoch_number == 1:
            self.state = self.logger.state_dict()


@both
@pytest.mark.parametrize("append", [False, True])
def test_resumed_files_go_on_where_the_checkpoint_was_written(
    logger_class, append, make_model, batches, tmp_path, read_csv
):
    def moments():
        rows = read_csv(tmp_path / "layer_0.weight.csv")
        return [(int(row["epoch"]), int(row["batch"])) for row in rows]

    model, path = make_model(), tmp_path / "layer_{}.csv"
    fit(model, batches, [logger_class(path)], epochs=1)
    before = moments() if append else []
    killed = logger_class(path, append=append)
    keep = Keep(killed)
    fit(model, batches, [killed, keep], epochs=2)
    resumed = logger_class(path, append=append)
    resumed.load_state_dict(keep.state)
    fit(model, batches, [resumed], epochs=3, initial_epoch=2)
    assert moments() == before + [(epoch, batch) for epoch in (1, 2, 3) for batch in (1, 2, 3, 4)]
    fit(model, batches, [resumed], epochs=1)
    assert moments()[-4:] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert len(moments()) == (20 if append else 4)


@both
def test_a_state_of_something_else_is_an_error(logger_class, tmp_path):
    with pytest.raises(CheckpointError, match='Logger lacks "start"'):
        logger_class(tmp_path / "{}.csv").load_state_dict({"epoch": 1})


@both
def test_a_separator_of_ones_own(logger_class, make_model, batches, tmp_path):
    logger = logger_class(tmp_path / "layer_{}.csv", separator=";", norm_type=1)
    fit(make_model(), batches, [logger])
    header = (tmp_path / "layer_0.weight.csv").read_text().splitlines()[0]
    assert header == "epoch;batch;mean;var;min;abs_min;max;abs_max;l1"


@both
def test_a_file_name_without_place_for_the_parameter_is_an_error(logger_class):
    with pytest.raises(InvalidArgumentError, match=r"put \{\} where"):
        logger_class("gradients.csv")


def test_atomic_files_are_whole_at_the_end_of_each_epoch(make_model, batches, tmp_path, read_csv):
    lengths = []

    class Watch(Callback):
        def on_epoch_end(self, epoch_number, logs):
            lengths.append(len(read_csv(tmp_path / "layer_0.weight.csv")))

    logger = AtomicCSVGradientLogger(
        tmp_path / "layer_{}.csv", temporary_filename=tmp_path / "aside"
    )
    fit(make_model(), batches, [logger, Watch()])
    assert lengths == [4, 8]
    assert not (tmp_path / "aside").exists()


# --- TensorBoard -----------------------------------------------------------------------------


def test_seven_curves_per_parameter_and_batch(make_model, batches):
    memory, writer = MemoryGradientLogger(), MagicMock()
    fit(make_model(), batches, [memory, TensorBoardGradientLogger(writer)])
    assert len(writer.method_calls) == 2 * 4 * 2 * 7
    calls = [each.args for each in writer.add_scalars.mock_calls]
    assert calls == [
        (f"gradient_stats/{name}", {key: records[step][key]}, step + 1)
        for step in range(8)
        for name, records in memory.history.items()
        for key in NAMES
    ]


def test_steps_go_on_after_those_done_before(make_model, batches):
    writer = MagicMock()
    logger = TensorBoardGradientLogger(writer, initial_step=10, every=2)
    model = make_model()
    fit(model, batches, [logger], epochs=1)
    fit(model, batches, [logger], epochs=1)
    steps = [each.args[2] for each in writer.add_scalars.mock_calls[::14]]
    assert steps == [12, 14, 16, 18]
    assert logger.current_step == 18


def test_the_number_of_the_step_is_saved(make_model, batches):
    logger = TensorBoardGradientLogger(MagicMock())
    fit(make_model(), batches, [logger])
    other = TensorBoardGradientLogger(MagicMock())
    other.load_state_dict(logger.state_dict())
    assert other.current_step == 8
    with pytest.raises(CheckpointError, match="current_step"):
        other.load_state_dict({})


def test_the_events_can_be_read_back(make_model, batches, tmp_path):
    memory, logger = MemoryGradientLogger(), TensorBoardGradientLogger(tmp_path)
    fit(make_model(), batches, [memory, logger])
    logger.writer.close()
    events = EventAccumulator(str(tmp_path / "gradient_stats_0.weight_l2.0"))
    events.Reload()
    found = [(each.step, each.value) for each in events.Scalars("gradient_stats/0.weight")]
    expected = [record["l2.0"] for record in memory.history["0.weight"]]
    assert found == [(step, pytest.approx(value)) for step, value in enumerate(expected, 1)]


def test_a_directory_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"clarion\[tensorboard\]"):
        TensorBoardGradientLogger(tmp_path)


@pytest.mark.parametrize("logger_class", [CSVGradientLogger, AtomicCSVGradientLogger])
def test_the_directories_of_the_files_are_made(logger_class, tmp_path, make_model, batches):
    logger = logger_class(tmp_path / "deep" / "{}" / "gradients.csv")
    make_model().fit_generator(batches, epochs=1, callbacks=[logger], verbose=False)
    files = (tmp_path / "deep").glob("*/gradients.csv")
    assert sorted(file.parent.name for file in files) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("logger_class", [CSVGradientLogger, AtomicCSVGradientLogger])
@pytest.mark.parametrize("name", ["{layer}.csv", "{}{}.csv", "{.csv"])
def test_a_name_that_takes_no_parameter_is_refused(logger_class, name):
    with pytest.raises(
        InvalidArgumentError, match=r"cannot take the names of parameters.*put \{\}"
    ):
        logger_class(name)
    with pytest.raises(InvalidArgumentError, match="a single character"):
        logger_class("{}.csv", separator="||")
