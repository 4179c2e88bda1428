import math

import pandas as pd
import pytest

from clarion.errors import CheckpointError, MissingMonitorError
from clarion.experiment.history import (
    best_row,
    cut_log,
    read_frame,
    read_log,
    rows_of_epochs,
    successive_bests,
)

LOG = (
    "epoch\ttime\tlr\tloss\tval_loss\r\n"
    "1\t0.5\t0.01\t1.0\t3.0\r\n"
    "2\t0.25\t0.01\t0.30000000000000004\t\r\n"
    "3\t0.5\t0.01\t0.25\t2.0\r\n"
    "4\t0.5\t0.01\tnan\t2.0\r\n"
)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(LOG.encode())
    return path


def test_the_log_is_read_exactly(log):
    rows = read_log(log)
    assert rows[1] == {
        "epoch": 2,
        "time": 0.25,
        "lr": 0.01,
        "loss": 0.1 + 0.2,
        "val_loss": None,
    }
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert math.isnan(rows[3]["loss"])


def test_no_file_is_no_row(tmp_path):
    assert read_log(tmp_path / "log.tsv") == []


def test_of_a_repeated_epoch_the_last_row_counts(log):
    log.write_bytes(LOG.encode() + b"3\t9\t0.01\t0.1\t1.0\r\n")
    rows = read_log(log)
    assert [row["epoch"] for row in rows] == [1, 2, 4, 3]
    assert rows[-1]["loss"] == 0.1


def test_rows_of_batches_are_passed_over(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("epoch\tbatch\tloss\n\t1\t0.5\n1\t\t0.25\n")
    assert read_log(path) == [{"epoch": 1, "batch": None, "loss": 0.25}]


def test_a_broken_row_is_named(log):
    log.write_bytes(LOG.encode() + b"5\tx\t0.01\t0.1\t1.0\r\n")
    with pytest.raises(CheckpointError, match=r"log\.tsv\".*Row 5 \(line 6\): .*'x'"):
        read_log(log)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(b"\r\n2\t", b"\r\n2.0\t"), r"Row 2 \(line 3\): .*'2\.0'"),
        (lambda text: b"\xef\xbb\xbf" + text, r'Line 1 has no column "epoch" but "\ufeffepoch"'),
        (lambda text: text + b"\xff\xfe\x00", r"Line 6 is no text"),
    ],
)
@pytest.mark.parametrize("read", [read_log, lambda path: cut_log(path, 2)])
def test_a_damaged_log_is_named_with_its_line_and_a_remedy(log, damage, message, read):
    log.write_bytes(damage(LOG.encode()))
    with pytest.raises(CheckpointError, match=message) as caught:
        read(log)
    assert str(caught.value).startswith(f'"{log}" is not as a training writes it.')
    assert "put an earlier copy in its place, or move it away" in str(caught.value)


def test_a_row_that_was_torn_is_none(log):
    log.write_bytes(LOG.encode() + b"5\t0.5\t0.0")
    assert [row["epoch"] for row in read_log(log)] == [1, 2, 3, 4]
    assert cut_log(log, 5) == [5]


def test_the_log_is_cut(log):
    cut_log(log, 2)
    assert log.read_bytes() == "".join(LOG.splitlines(keepends=True)[:3]).encode()
    cut_log(log, 2)
    assert len(read_log(log)) == 2
    cut_log(log, 0)
    assert read_log(log) == []
    assert log.read_bytes().startswith(b"epoch\ttime")


def test_the_best_row_is_the_first_of_equals_and_never_nan(log):
    rows = read_log(log)
    assert best_row(rows, "val_loss", "min")["epoch"] == 3
    assert best_row(rows, "val_loss", "max")["epoch"] == 1
    assert best_row(rows, "loss", "min")["epoch"] == 3
    assert best_row([{"epoch": 1, "loss": None}], "loss", "min") is None
    assert best_row([], "loss", "min") is None


def test_successive_bests(log):
    bests = successive_bests(read_log(log), "loss", "min")
    assert [row["epoch"] for row in bests] == [1, 2, 3]


def test_a_missing_column_is_answered_with_the_nearest(log):
    with pytest.raises(MissingMonitorError, match=r'no column "val_los"; did you mean "val_loss"'):
        best_row(read_log(log), "val_los", "min")


def test_frames(log):
    log.write_bytes(LOG.encode() + b"3\t9\t0.01\t0.1\t1.0\r\n")
    frame = read_frame(log, "get_stats")
    pd.testing.assert_frame_equal(frame, pd.read_csv(log, sep="\t"))
    chosen = rows_of_epochs(frame, [3])
    assert list(chosen["loss"]) == [0.1]
    assert list(chosen["epoch"]) == [3]
    assert len(rows_of_epochs(frame, [])) == 0
