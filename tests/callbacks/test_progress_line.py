import io
import math
import re
import sys

import numpy as np
import pytest
import torch

from clarion import console
from clarion.callbacks.progress_line import ColorProgress, format_duration, format_value

FULL = "█" * 20


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """A function that calls another one on a display, and returns what it wrote."""
    for name in ("NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console._State, "unfinished", None)

    def show(draw, stream=None, coloring=False, columns=80):
        stream = stream or io.StringIO()
        monkeypatch.setenv("COLUMNS", str(columns))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            display = ColorProgress(coloring)
            display.look()
            draw(display)
        return stream.getvalue()

    return show


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00s"),
        (-1e-9, "0.00s"),
        (0.05, "0.05s"),
        (59.994, "59.99s"),
        (59.999, "1m0.00s"),
        (61.5, "1m1.50s"),
        (3600, "1h0m0.00s"),
        (36 * 3600 + 30 * 60 + 30, "1d12h30m30.00s"),
        (2 * 86400, "2d0h0m0.00s"),
    ],
)
def test_a_duration_is_told_in_days_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text
    assert ColorProgress._format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.6895664, "1.689566"),
        (20, "20.000000"),
        (0.0, "0.000000"),
        (-0.5, "-0.500000"),
        (1e-4, "0.000100"),
        (0.000123456, "0.000123"),
        (9.87654e-5, "9.877e-05"),
        (-1.234e-7, "-1.234e-07"),
        (123456789.0, "123456789.000000"),
        (1.5e20, "1.500e+20"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (np.float32(0.25), "0.250000"),
        (torch.tensor(0.25), "0.250000"),
        (torch.tensor([1, 2]), "tensor([1, 2])"),
        ("two\nlines", "two lines"),
        (None, "None"),
    ],
)
def test_a_value_is_readable_whatever_its_size(value, text):
    assert format_value(value) == text


def test_the_line_of_a_step_has_epoch_ratio_bar_time_and_values(shown):
    def draw(display):
        display.set_epoch(1, 2)
        display.show_step(1, 2, 0.05, {"loss": 1.689566, "acc": 20.0})

    assert shown(draw) == (
        "\rEpoch: 1/2 Step: 1/2  50.00% |██████████          |"
        "ETA: 0.05s loss: 1.689566 acc: 20.000000"
    )


def test_without_the_number_of_steps_there_is_the_time_of_a_step(shown):
    def draw(display):
        display.set_epoch(1, 1)
        display.show_step(2, None, 0.05, {"loss": 1.0})

    assert shown(draw) == "\rEpoch: 1/1 Step: 2 0.05s/step loss: 1.000000"


def test_numbers_are_as_wide_as_the_total(shown):
    def draw(display):
        display.set_epoch(9, 100)
        display.show_step(7, 1000, 61.0, {}, bar=False)

    assert shown(draw) == "\rEpoch:   9/100 Step:    7/1000 ETA: 1m1.00s "


def test_the_final_line_counts_the_steps_and_ends(shown):
    def draw(display):
        display.set_epoch(1, 2)
        display.show_end({"Train steps": 2, "Val steps": 3}, 0.14, {"loss": 1.5, "val_loss": 2.5})

    assert shown(draw) == (
        "\rEpoch: 1/2 Train steps: 2 Val steps: 3 0.14s loss: 1.500000 val_loss: 2.500000\n"
    )


def test_a_count_that_is_not_known_is_left_out(shown):
    assert shown(lambda display: display.show_end({"Train steps": None}, 1, {})) == "\r1.00s\n"


def test_a_shorter_line_covers_the_one_before_it(shown):
    def draw(display):
        display.show_step(1, None, 0.0, {"loss": 10.0})
        display.show_step(2, None, 0.0, {"loss": 9.0})
        display.show_end({"Test steps": 2}, 0.0, {})
        display.show_end({"Test steps": 2}, 0.0, {})

    for coloring in (False, True):
        lines = re.split("[\r\n]+", _plain(shown(draw, coloring=coloring)))[1:-1]
        assert [len(line) for line in lines] == [34, 34, 33, 19]


def test_names_of_values_may_hold_anything(shown):
    def draw(display):
        display.show_step(1, None, 0.0, {"loss": 1.0, "a,b: c{}": 2.0, "%s": 3.0})

    assert shown(draw).endswith("loss: 1.000000 a,b: c{}: 2.000000 %s: 3.000000")


def test_each_part_has_its_color(shown):
    def draw(display):
        display.set_epoch(1, 2)
        display.show_step(2, 2, 0.05, {"loss": 1.0, "acc": 2.0})

    coloring = {
        "text_color": "BLACK",
        "ratio_color": "RED",
        "metric_value_color": "GREEN",
        "time_color": "YELLOW",
        "progress_bar_color": "BLUE",
    }
    pieces = re.findall("\033\\[3(\\d)m([^\033]*)", shown(draw, coloring=coloring))
    by_color = ["", "", "", "", ""]
    for number, text in pieces:
        by_color[int(number)] += text
    assert by_color == [
        "Epoch: Step: 100.00% ||ETA: loss: acc:",
        "1/2 2/2 ",
        " 1.000000 2.000000",
        "0.05s ",
        FULL,
    ]


def test_a_file_gets_plain_lines_without_a_bar(shown, tmp_path):
    def draw(display):
        display.set_epoch(1, 2)
        display.show_step(1, 2, 0.05, {"loss": 1.0})
        display.show_step(1, 2, 0.05, {})
        display.show_end({"Train steps": 2}, 0.1, {"loss": 1.0})

    with open(tmp_path / "out.txt", "w+", encoding="utf-8") as file:
        file.getvalue = lambda: None
        shown(draw, file, coloring={"text_color": "RED"})
    assert (tmp_path / "out.txt").read_bytes().decode() == (
        "Epoch: 1/2 Step: 1/2 ETA: 0.05s loss: 1.000000\n"
        "Epoch: 1/2 Step: 1/2 ETA: 0.05s\n"
        "Epoch: 1/2 Train steps: 2 0.10s loss: 1.000000\n"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (100, f"Epoch: 1/2 Step: 9/9 100.00% |{FULL}|ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (91, f"Epoch: 1/2 Step: 9/9 100.00% |{'█' * 15}|ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (80, f"Epoch: 1/2 Step: 9/9 100.00% |{'█' * 5}|ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (76, f"Epoch: 1/2 Step: 9/9 |{'█' * 10}|ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (70, f"Epoch: 1/2 Step: 9/9 |{'█' * 5}|ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (63, "Epoch: 1/2 Step: 9/9 ETA: 0.05s loss: 1.689566 acc: 20.000000"),
        (60, "Epoch: 1/2 Step: 9/9 ETA: 0.05s loss: 1.689566 ..."),
        (40, "Epoch: 1/2 Step: 9/9 ETA: 0.05s ..."),
        (20, "Epoch: 1/2 Step: 9/"),
    ],
)
def test_on_a_terminal_no_line_of_a_step_is_too_wide(shown, columns, line):
    def draw(display):
        display.set_epoch(1, 2)
        display.show_step(9, 9, 0.05, {"loss": 1.689566, "acc": 20.0})

    assert len(line) < columns
    assert shown(draw, Terminal(), columns=columns) == f"\r\033[K{line}"
    assert _plain(shown(draw, Terminal(), coloring=True, columns=columns)) == f"\r\033[K{line}"


def test_wide_characters_count_double(shown):
    def draw(display):
        display.show_step(1, None, 0.0, {"损失损失损失": 1.0})

    assert shown(draw, Terminal(), columns=42).endswith("s/step 损失损失损失: 1.000000")
    assert shown(draw, Terminal(), columns=41).endswith("s/step ...")


def test_on_a_terminal_the_final_line_is_complete(shown):
    def draw(display):
        display.show_end({"Test steps": 2}, 0.0, dict.fromkeys("abcdefgh", 1.0))

    assert shown(draw, Terminal(), columns=40).endswith(" h: 1.000000\n")


def test_a_terminal_without_blocks_gets_a_bar_of_ascii(shown):
    stream = Terminal()
    stream.encoding = "ascii"
    text = shown(lambda display: display.show_step(1, 3, 0.0, {}), stream)
    assert "33.33% |######              |" in text
    assert text.isascii()


def test_a_dumb_terminal_is_treated_as_a_file(shown, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    text = shown(lambda display: display.show_step(1, 3, 0.0, {}), Terminal(), coloring=True)
    assert text == "Step: 1/3 ETA: 0.00s\n"


def _plain(text):
    return re.sub("\033\\[\\d+m", "", text)
