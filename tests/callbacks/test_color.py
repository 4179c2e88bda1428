import pytest

from clarion.callbacks.color import (
    EmptyStringAttrClass,
    cut,
    default_color_settings,
    paint,
    palette,
    text_width,
)


@pytest.fixture(autouse=True)
def _colors_are_welcome(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_the_default_colors_are_those_of_the_settings():
    codes = palette(True)
    assert (codes.text_color, codes.ratio_color) == ("\033[35m", "\033[36m")
    assert (codes.metric_value_color, codes.time_color) == ("\033[94m", "\033[32m")
    assert codes.progress_bar_color == "\033[35m"


def test_a_dict_replaces_some_of_the_colors():
    codes = palette({"text_color": "BLACK", "time_color": "lightred_ex"})
    assert (codes.text_color, codes.time_color) == ("\033[30m", "\033[91m")
    assert codes.ratio_color == "\033[36m"


@pytest.mark.parametrize("coloring", [False, None])
def test_no_coloring_is_no_code(coloring):
    assert palette(coloring).anything == ""


def test_no_color_in_the_environment_counts_unless_colors_are_chosen(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert palette(True).text_color == ""
    assert palette({"text_color": "RED"}).text_color == "\033[31m"


def test_an_empty_no_color_does_not_count(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert palette(True).text_color == "\033[35m"


def test_an_unknown_part_is_named_with_the_nearest():
    with pytest.raises(KeyError, match=r'part "txt_color" in coloring; did you mean "text_color"'):
        palette({"txt_color": "RED"})


def test_an_unknown_color_is_named_with_the_nearest():
    with pytest.raises(KeyError, match=r'colour "MAGNETA" for "text_color".*mean "magenta"'):
        palette({"text_color": "MAGNETA"})
    with pytest.raises(ValueError, match=r'colour "zz" for "time_color" in coloring\. Known: "BLA'):
        palette({"time_color": "zz"})


def test_every_attribute_of_no_colors_is_the_empty_string():
    assert EmptyStringAttrClass().an_attribute == ""


def test_a_painted_line_ends_with_a_reset():
    line = [("text_color", "Step: "), ("ratio_color", "1/2")]
    assert paint(line, palette(True)) == "\033[35mStep: \033[36m1/2\033[0m"
    assert paint(line, palette(False)) == "Step: 1/2"


def test_the_default_settings_have_the_parts_of_the_line():
    parts = {"text_color", "ratio_color", "metric_value_color", "time_color", "progress_bar_color"}
    assert set(default_color_settings) == parts


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("acc", 3), ("损失", 4), ("e\u0301", 1), ("█", 1)]
)
def test_the_width_of_a_text_is_that_on_the_screen(text, width):
    assert text_width(text) == width


@pytest.mark.parametrize(
    ("width", "text"), [(9, "ab损失cd"), (6, "ab损失"), (5, "ab损"), (2, "ab"), (0, "")]
)
def test_a_line_is_cut_to_a_width(width, text):
    line = [("text_color", "ab"), ("ratio_color", "损失"), ("time_color", "cd")]
    assert "".join(piece for _, piece in cut(line, width)) == text
