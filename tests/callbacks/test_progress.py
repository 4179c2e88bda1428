import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from clarion import console
from clarion.callbacks import progress, progress_clock
from clarion.callbacks.base import Callback
from clarion.callbacks.progress import EpochProgressionCallback, ProgressionCallback
from clarion.model import Model

TIME = r"\d+\.\d\ds"
VALUE = r"\d+\.\d{6}"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class CountedLogs(Mapping):
    """Batch logs that count how often somebody reads them."""

    def __init__(self, values):
        self.values_by_name = values
        self.reads = 0

    def __getitem__(self, name):
        self.reads = 1
        return self.values_by_name[name]

    def __iter__(self):
        return iter(self.values_by_name)

    def __len__(self):
        return len(self.values_by_name)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(console._State, "unfinished", None)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    monkeypatch.setattr(progress_clock, "monotonic", clock)
    return clock


@pytest.fixture
def output(monkeypatch):
    """A function that calls another one and returns what it wrote to standard output."""

    def capture(run, stream=None):
        stream = stream or io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            run()
        return stream.getvalue()

    return capture


def make_model():
    torch.manual_seed(42)
    return Model(nn.Linear(4, 5), "sgd", "cross_entropy", batch_metrics=["accuracy"])


def make_data():
    generator = torch.Generator().manual_seed(7)
    return torch.rand(20, 4, generator=generator), torch.arange(20) % 5


def lines_of(text):
    return re.sub("\033\\[\\d*[mK]", "", text).split("\r")[1:]


def run_steps(callback, clock, num_steps, seconds, *, known=True):
    """Run one train pass by hand; return which steps read their logs."""
    callback.set_params({"epochs": 1, "steps": num_steps if known else None})
    callback.on_train_begin({})
    callback.on_epoch_begin(1, {})
    read = []
    for step in range(1, num_steps + 1):
        clock.now += seconds
        logs = CountedLogs({"batch": step, "size": 2, "time": seconds, "loss": 0.5})
        callback.on_train_batch_end(step, logs)
        if logs.reads:
            read.append(step)
    callback.on_epoch_end(1, {"epoch": 1, "time": num_steps * seconds, "loss": 0.25})
    return read


def test_a_training_shows_its_steps_and_epochs(output):
    x, y = make_data()
    model = make_model()
    text = output(
        lambda: model.fit(
            x,
            y,
            validation_data=(x[:10], y[:10]),
            epochs=2,
            batch_size=10,
            progress_options={"coloring": False},
        )
    )
    half, full = r"  50\.00% \|█{10} {10}\|", r" 100\.00% \|█{20}\|"
    valid = rf"val_loss: {VALUE} val_acc: {VALUE} *"
    expected = []
    for epoch in (1, 2):
        begin = f"Epoch: {epoch}/2 "
        expected += [
            rf"{begin}Step: 1/2{half}ETA: {TIME} loss: {VALUE} acc: {VALUE}",
            rf"{begin}Step: 2/2{full}ETA: 0\.00s loss: {VALUE} acc: {VALUE} *",
            rf"{begin}Step: 1/1{full}ETA: 0\.00s {valid}",
            rf"{begin}Train steps: 2 Val steps: 1 {TIME} loss: {VALUE} acc: {VALUE} {valid}\n",
        ]
    lines = lines_of(text)
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_colors_blocks_and_percentages_are_the_default(output):
    x, y = make_data()
    text = output(lambda: make_model().fit(x, y, epochs=1))
    for part in ("\033[35m", "\033[36m", "\033[32m", "\033[94m", "%", "█", "\r", "\n"):
        assert part in text


def test_an_evaluation_and_a_prediction_have_their_own_lines(output):
    x, y = make_data()
    model = make_model()
    options = {"coloring": False}
    test = lines_of(output(lambda: model.evaluate(x, y, batch_size=10, progress_options=options)))
    predict = lines_of(output(lambda: model.predict(x, batch_size=10, progress_options=options)))
    values = f"test_loss: {VALUE} test_acc: {VALUE}"
    assert re.fullmatch(rf"Step: 1/2  50.00% \|█{{10}} {{10}}\|ETA: {TIME} {values}", test[0])
    assert re.fullmatch(rf"Test steps: 2 {TIME} {values} *\n", test[2])
    assert re.fullmatch(rf"Step: 2/2 100.00% \|█{{20}}\|ETA: {TIME} ", predict[1])
    assert re.fullmatch(rf"Prediction steps: 2 {TIME} *\n", predict[2])


def test_an_unknown_number_of_steps_shows_the_time_of_a_step(output):
    x, y = make_data()

    def batches():
        yield from zip(x.split(10), y.split(10), strict=True)

    def run():
        make_model().fit_generator(batches(), epochs=1, progress_options={"coloring": False})

    lines = lines_of(output(run))
    assert re.fullmatch(rf"Epoch: 1/1 Step: 2 {TIME}/step loss: {VALUE} acc: {VALUE} *", lines[1])
    assert re.match(r"Epoch: 1/1 Train steps: 2 ", lines[2])


def test_a_training_that_goes_on_shows_the_number_of_its_epoch(output):
    x, y = make_data()
    text = output(lambda: make_model().fit(x, y, epochs=10, initial_epoch=9, batch_size=20))
    assert [line[:12] for line in lines_of(text)] == ["Epoch:  9/10", "Epoch:  9/10"] + [
        "Epoch: 10/10"
    ] * 2


def test_verbose_false_writes_nothing(output):
    x, y = make_data()
    model = make_model()

    def run():
        model.fit(x, y, epochs=1, verbose=False)
        model.evaluate(x, y, verbose=False)
        model.predict(x, verbose=False)

    assert output(run) == ""


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 10 + 10),
        ({"show_on_valid": False}, 10),
        ({"show_every_n_train_steps": 3}, 3 + 10),
        ({"show_every_n_valid_steps": 4}, 10 + 2),
        ({"show_every_n_train_steps": "none"}, 10),
        ({"show_every_n_train_steps": "none", "show_every_n_valid_steps": "none"}, 0),
    ],
)
def test_the_steps_that_are_shown_can_be_chosen(output, options, steps):
    x, y = make_data()

    def run():
        make_model().fit(
            x, y, validation_data=(x, y), batch_size=2, epochs=1, progress_options=options
        )

    assert len(lines_of(output(run))) == steps + 1


@pytest.mark.parametrize(("every", "steps"), [("all", 10), ("none", 0), (4, 2)])
def test_the_choice_for_tests_is_that_for_predictions_too(output, every, steps):
    x, y = make_data()
    options = {"show_every_n_test_steps": every}

    def run():
        make_model().evaluate(x, y, batch_size=2, progress_options=options)
        make_model().predict(x, batch_size=2, progress_options=options)

    assert len(lines_of(output(run))) == 2 * (steps + 1)


def test_without_a_bar_there_is_no_percentage(output):
    x, y = make_data()
    options = {"coloring": False, "progress_bar": False}
    text = output(lambda: make_model().fit(x, y, epochs=1, progress_options=options))
    assert re.match(rf"\rEpoch: 1/1 Step: 1/1 ETA: {TIME} loss: {VALUE} acc", text)


@pytest.mark.parametrize(
    "option", ["show_every_n_train_steps", "show_every_n_valid_steps", "show_every_n_test_steps"]
)
@pytest.mark.parametrize("value", ["some", 0, -1, 1.5, None, True])
def test_another_choice_is_an_error(option, value):
    with pytest.raises(AssertionError, match=rf"{option}=.*: expected \"all\", \"none\", or a"):
        ProgressionCallback(**{option: value})


def test_a_color_that_does_not_exist_is_an_error(output):
    x, y = make_data()
    with pytest.raises(KeyError, match='Unknown part "invalid_name" in coloring'):
        make_model().fit(x, y, epochs=1, progress_options={"coloring": {"invalid_name": "RED"}})


def test_the_time_left_is_that_of_the_steps_to_come(output, clock):
    callback = ProgressionCallback(coloring=False)
    text = output(lambda: run_steps(callback, clock, 4, 20.0))
    assert re.findall(r"ETA: (\S+)", text) == ["1m0.00s", "40.00s", "20.00s", "0.00s"]


@pytest.mark.parametrize(("equal_weights", "eta"), [(False, "8.00s"), (True, "6.00s")])
def test_later_steps_weigh_more_in_the_time_left_unless_told_otherwise(
    output, clock, equal_weights, eta
):
    callback = ProgressionCallback(coloring=False, equal_weights=equal_weights)

    def run():
        callback.set_params({"epochs": 1, "steps": 4})
        callback.on_train_begin({})
        callback.on_epoch_begin(1, {})
        for step, seconds in ((1, 0.0), (2, 6.0)):
            callback.on_train_batch_end(step, {"time": seconds})

    assert f"ETA: {eta}" in output(run)


def test_on_a_terminal_logs_are_read_ten_times_a_second(output, clock):
    read = []
    stream = Terminal()
    output(lambda: read.extend(run_steps(ProgressionCallback(), clock, 64, 1 / 64)), stream)
    assert read == [1, 8, 15, 22, 29, 36, 43, 50, 57, 64]
    lines = stream.getvalue().split("\r\033[K")[1:]
    assert len(lines) == len(read) + 1
    assert all("\n" not in line for line in lines[:-1])
    assert lines[-1].endswith("\n")


def test_in_a_file_logs_are_read_twice_a_minute(output, clock, tmp_path):
    read = []
    with open(tmp_path / "out.txt", "w", encoding="utf-8") as file:
        file.getvalue = lambda: None
        output(lambda: read.extend(run_steps(ProgressionCallback(), clock, 1000, 1 / 16)), file)
    assert len(read) == 2
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"Epoch: 1/1 Step:   80/1000 ETA: 57\.50s loss: 0\.500000", lines[0])
    assert re.fullmatch(r"Epoch: 1/1 Step:  560/1000 ETA: 27\.50s loss: 0\.500000", lines[1])
    assert lines[2:] == ["Epoch: 1/1 Train steps: 1000 1m2.50s loss: 0.250000"]


def test_other_ranks_read_and_write_nothing(output, clock, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    for stream in (Terminal(), io.StringIO()):
        read = []
        callback = ProgressionCallback()
        text = output(lambda c=callback, r=read: r.extend(run_steps(c, clock, 10, 1.0)), stream)
        assert (text, read) == ("", [])


def test_an_epoch_without_a_batch_is_no_error(output, clock):
    text = output(lambda: run_steps(ProgressionCallback(coloring=False), clock, 0, 0.0))
    assert text == "\rEpoch: 1/1 Train steps: 0 0.00s loss: 0.250000\n"


def test_a_training_resumed_within_an_epoch_knows_how_long_a_step_takes(output, clock):
    callback = ProgressionCallback(coloring=False)

    def run():
        callback.set_params({"epochs": 1, "steps": 1000})
        callback.on_train_begin({})
        callback.on_epoch_begin(1, {})
        for step in range(901, 921):
            clock.now += 0.5
            callback.on_train_batch_end(step, {"loss": 1.0})

    assert output(run).endswith("ETA: 40.00s loss: 1.000000")


def test_after_an_error_the_traceback_begins_on_its_own_line(output):
    class Failing(Callback):
        def on_train_batch_end(self, batch_number, logs):
            raise KeyboardInterrupt

    x, y = make_data()

    def run():
        with pytest.raises(KeyboardInterrupt):
            make_model().fit(x, y, callbacks=[Failing()], epochs=1, batch_size=10)

    text = output(run)
    assert text.count("\n") == 1
    assert text.endswith("\033[0m\n")


def test_the_display_may_be_used_for_one_run_after_the_other(output):
    x, y = make_data()
    callback = ProgressionCallback(coloring=False)
    model = make_model()

    def run():
        model.fit(x, y, epochs=1, verbose=False, callbacks=[callback])
        model.evaluate(x, y, verbose=False, callbacks=[callback])

    assert [line.split()[0] for line in lines_of(output(run))] == [
        "Epoch:",
        "Epoch:",
        "Step:",
        "Test",
    ]


def test_weights_do_not_depend_on_the_display(output):
    x, y = make_data()
    weights = []
    for verbose in (True, False):
        model = make_model()
        output(lambda m=model, v=verbose: m.fit(x, y, epochs=2, batch_size=5, verbose=v))
        weights.append(model.get_weight_copies()["weight"])
    assert torch.equal(*weights)


def test_the_epoch_display_shows_epochs_alone(output):
    x, y = make_data()

    def run(**options):
        callback = EpochProgressionCallback(coloring=False, **options)
        make_model().fit(
            x, y, validation_data=(x, y), epochs=3, verbose=False, callbacks=[callback]
        )

    lines = lines_of(output(run))
    values = f"loss: {VALUE} acc: {VALUE}"
    assert len(lines) == 3
    for epoch, line in enumerate(lines, start=1):
        counts = rf"Epoch: {epoch}/3 Train steps: 1 Val steps: 1 {TIME} "
        valid = f"val_loss: {VALUE} val_acc: {VALUE}"
        assert re.fullmatch(rf"{counts}{values} {valid}\n", line)
    assert [line[7] for line in lines_of(output(lambda: run(show_every_n_epochs=2)))] == ["2"]
    assert output(lambda: run(show_every_n_epochs="none")) == ""


def test_the_epoch_display_hides_counts_that_nobody_knows(output):
    x, y = make_data()
    callback = EpochProgressionCallback(coloring=False)

    def run():
        batches = iter([(x, y)])
        make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[callback])

    assert re.match(rf"\rEpoch: 1/1 {TIME} loss: ", output(run))


def test_the_epoch_display_refuses_other_choices():
    with pytest.raises(AssertionError, match='show_every_n_epochs=0: expected "all"'):
        EpochProgressionCallback(show_every_n_epochs=0)


_PROGRAM = """
from clarion.callbacks.progress import ProgressionCallback

callback = ProgressionCallback()
callback.set_params({"epochs": 1, "steps": 1000})
callback.on_train_begin({})
callback.on_epoch_begin(1, {})
for step in range(1, 1001):
    callback.on_train_batch_end(step, {"time": 0.0, "loss": 1.0, "a_rather_long_name": 2.0})
callback.on_epoch_end(1, {"time": 0.0, "loss": 1.0})
"""


def test_a_pipe_gets_one_line_per_short_epoch():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    assert done.stdout.replace(b"\r\n", b"\n") == (
        b"Epoch: 1/1 Train steps: 1000 0.00s loss: 1.000000\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="pseudo terminals are a thing of Unix")
def test_a_real_terminal_gets_lines_that_fit():
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=slave)
    os.close(slave)
    received = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        received += chunk
    os.close(master)
    assert process.wait() == 0
    drawn = received.decode().split("\r\033[K")[1:]
    assert 3 <= len(drawn) < 30
    assert "\033[35m" in drawn[0]
    plain = [re.sub("\033\\[\\d+m", "", line) for line in drawn]
    assert all(len(line) < 70 for line in plain[:-1])
    assert plain[0].startswith("Epoch: 1/1 Step:    1/1000 |     |ETA: ")
    assert plain[-2] == "Epoch: 1/1 Step: 1000/1000 |█████|ETA: 0.00s loss: 1.000000 ..."
    assert plain[-1] == "Epoch: 1/1 Train steps: 1000 0.00s loss: 1.000000\r\n"


def test_train_steps_after_a_validation_inside_an_epoch_are_counted(clock, monkeypatch, tmp_path):
    x = torch.zeros(5, 2)
    model = Model(nn.Linear(2, 1), "sgd", "mse")
    with open(tmp_path / "shown.txt", "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        options = {"validation_data": (x, x[:, :1]), "validate_every": 2}
        model.fit(x, x[:, :1], batch_size=1, epochs=1, **options)
        monkeypatch.undo()
    assert "Train steps: 5 Val steps: 5" in (tmp_path / "shown.txt").read_text(encoding="utf-8")
