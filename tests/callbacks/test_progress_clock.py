import pytest

from clarion.callbacks import progress_clock
from clarion.callbacks.progress_clock import Pace, StepTimes


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_clock, "monotonic", clock)
    return clock


def steps_drawn(pace, clock, num_steps, seconds):
    """The steps at which a line is drawn, as ProgressionCallback asks for it."""
    drawn = []
    for step in range(1, num_steps + 1):
        clock.now += seconds
        if (clock.now >= pace.next or step == pace.last) and pace.due(step):
            drawn.append(step)
    return drawn


def test_an_object_in_memory_gets_every_step(clock):
    pace = Pace()
    pace.begin_run("other")
    pace.begin_pass("other", "all", 5)
    assert steps_drawn(pace, clock, 5, 0.0) == [1, 2, 3, 4, 5]


def test_a_terminal_gets_ten_a_second_and_the_first_and_the_last(clock):
    pace = Pace()
    pace.begin_run("terminal")
    for _ in range(2):
        pace.begin_pass("terminal", "all", 99)
        drawn = steps_drawn(pace, clock, 99, 1 / 64)
        assert drawn == [1, 8, 15, 22, 29, 36, 43, 50, 57, 64, 71, 78, 85, 92, 99]


def test_a_slow_step_on_a_terminal_is_always_drawn(clock):
    pace = Pace()
    pace.begin_run("terminal")
    pace.begin_pass("terminal", "all", None)
    assert steps_drawn(pace, clock, 4, 0.5) == [1, 2, 3, 4]


def test_a_file_gets_one_after_five_seconds_and_then_one_every_half_minute(clock):
    pace = Pace()
    pace.begin_run("file")
    pace.begin_pass("file", "all", 1000)
    assert steps_drawn(pace, clock, 100, 1.0) == [5, 35, 65, 95]


def test_the_half_minute_runs_on_from_the_line_of_an_epoch(clock):
    pace = Pace()
    pace.begin_run("file")
    pace.begin_pass("file", "all", 20)
    assert steps_drawn(pace, clock, 20, 1.0) == [5]
    pace.drawn()
    pace.begin_pass("file", "all", 40)
    assert steps_drawn(pace, clock, 40, 1.0) == [30]


def test_a_notebook_never_gets_more_than_ten_a_second(clock):
    pace = Pace()
    pace.begin_run("notebook")
    pace.begin_pass("notebook", "all", 20)
    assert steps_drawn(pace, clock, 20, 1 / 64) == [1, 8, 15]
    pace.begin_pass("notebook", 2, 20)
    assert steps_drawn(pace, clock, 20, 1 / 64) == [2, 10, 18]


@pytest.mark.parametrize("kind", ["other", "terminal", "file"])
def test_a_number_means_each_nth_step_whatever_the_time(clock, kind):
    pace = Pace()
    pace.begin_run(kind)
    pace.begin_pass(kind, 3, 10)
    assert steps_drawn(pace, clock, 10, 0.0) == [3, 6, 9]


@pytest.mark.parametrize("kind", ["other", "terminal", "file", "notebook"])
def test_none_means_no_step(clock, kind):
    pace = Pace()
    pace.begin_run(kind)
    pace.begin_pass(kind, "none", 10)
    assert steps_drawn(pace, clock, 10, 100.0) == []


def test_later_steps_weigh_more(clock):
    times = StepTimes()
    assert times.mean(1, 1.0) == 1.0
    assert times.mean(2, 4.0) == pytest.approx((1 * 1 + 2 * 4) / 3)
    assert times.mean(3, 2.0) == pytest.approx((1 * 1 + 2 * 4 + 3 * 2) / 6)


def test_equal_weights_give_the_plain_mean(clock):
    times = StepTimes(equal_weights=True)
    times.mean(1, 1.0)
    assert times.mean(2, 4.0) == pytest.approx(2.5)


@pytest.mark.parametrize("equal", [True, False])
def test_steps_in_between_are_taken_to_last_equally_long(clock, equal):
    told_of_all, told_of_some = StepTimes(equal), StepTimes(equal)
    for step in range(1, 13):
        clock.now += 1.0 if step <= 4 else 3.0
        expected = told_of_all.mean(step)
        if step in (1, 4, 12):
            assert told_of_some.mean(step) == pytest.approx(expected)


def test_a_pass_that_begins_in_the_middle_counts_its_own_steps(clock):
    times = StepTimes(equal_weights=True)
    times.start(501)
    clock.now += 20.0
    assert times.mean(510) == pytest.approx(2.0)


def test_a_new_pass_forgets_the_old_one(clock):
    times = StepTimes()
    times.mean(1, 100.0)
    times.begin_pass()
    assert times.mean(1, 1.0) == 1.0
