import pytest

from clarion.callbacks.progress_bar import ProgressBar


def test_the_bar_fills_in_eighths_of_a_character():
    bar = ProgressBar(7)
    shown = [str(bar)]
    for _ in range(7):
        bar.update()
        shown.append(str(bar))
    assert shown == [
        "  0.00% |                    ",
        " 14.29% |██▊                 ",
        " 28.57% |█████▋              ",
        " 42.86% |████████▌           ",
        " 57.14% |███████████▍        ",
        " 71.43% |██████████████▎     ",
        " 85.71% |█████████████████▏  ",
        "100.00% |████████████████████",
    ]


@pytest.mark.parametrize("length", [1, 7, 20])
@pytest.mark.parametrize("steps", [1, 3, 20, 99, 1000])
def test_the_bar_has_its_length_and_is_full_at_the_last_step_only(steps, length):
    bar = ProgressBar(steps, bar_length=length)
    for _ in range(steps):
        assert len(bar.progress_bar_formatting()) == length
        assert bar.progress_bar_formatting() != "█" * length
        bar.update()
    assert bar.progress_bar_formatting() == "█" * length


def test_more_steps_than_announced_do_not_lengthen_the_bar():
    bar = ProgressBar(4)
    bar.update(5)
    assert str(bar) == "125.00% |" + "█" * 20


def test_no_step_to_do_is_a_full_bar():
    assert str(ProgressBar(0, bar_length=3)) == "100.00% |███"


def test_reset_empties_the_bar():
    bar = ProgressBar(2)
    bar.update()
    bar.reset()
    assert str(bar) == str(ProgressBar(2))


def test_the_characters_and_the_format_are_arguments():
    bar = ProgressBar(
        4,
        bar_length=2,
        bar_format="[{bar}] {percentage}",
        bar_character="#",
        partial_bar_characters=[".", "-"],
    )
    shown = []
    for _ in range(5):
        shown.append(str(bar))
        bar.update()
    assert shown == ["[. ]   0.00%", "[- ]  25.00%", "[#.]  50.00%", "[#-]  75.00%", "[##] 100.00%"]


def test_without_partial_characters_the_bar_is_made_of_whole_ones():
    bar = ProgressBar(4, bar_length=2, bar_character="#", partial_bar_characters=())
    bar.update(3)
    assert bar.progress_bar_formatting() == "# "
