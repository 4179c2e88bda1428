import math
import sys

import matplotlib as mpl
import pytest

mpl.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from clarion.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError
from clarion.experiment.plotting import plot_history, plot_metric, save_plots

HISTORY = [
    {"epoch": 1, "time": 0.5, "loss": 1.0, "acc": 10.0, "val_loss": 2.0, "val_acc": 5.0},
    {"epoch": 2, "time": 0.4, "loss": 0.5, "acc": 20.0, "val_loss": 1.5, "val_acc": 6.0},
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def curves(ax):
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


@pytest.mark.parametrize("history", [HISTORY, pd.DataFrame(HISTORY)], ids=["list", "frame"])
def test_every_metric_gets_a_figure_with_both_curves(history):
    figures, axes = plot_history(history, show=False, close=False)
    assert len(figures) == len(axes) == 3
    assert curves(axes[0]) == {"time": [0.5, 0.4]}
    assert curves(axes[1]) == {"loss": [1.0, 0.5], "val_loss": [2.0, 1.5]}
    assert curves(axes[2]) == {"acc": [10.0, 20.0], "val_acc": [5.0, 6.0]}
    assert list(axes[1].lines[0].get_xdata()) == [1, 2]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["loss", "val_loss"]
    assert axes[1].get_xlabel() == "Epochs"
    assert axes[1].get_ylabel() == "loss"


def test_the_ticks_are_whole_epochs():
    _, (ax,) = plot_history(HISTORY, metrics=["loss"], show=False, close=False)
    ax.figure.canvas.draw()
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_labels_and_titles():
    _, axes = plot_history(
        HISTORY, metrics=["loss", "acc"], labels=["L", "A"], titles="T", show=False, close=False
    )
    assert list(curves(axes[1])) == ["Training A", "Validation A"]
    assert axes[1].get_ylabel() == "A"
    assert [ax.get_title() for ax in axes] == ["T", "T"]
    _, axes = plot_history(
        HISTORY, metrics=["loss", "acc"], titles=["x", "y"], show=False, close=False
    )
    assert [ax.get_title() for ax in axes] == ["x", "y"]


def test_axes_of_ones_own():
    figure, axes = plt.subplots(2)
    figures, used = plot_history(HISTORY, metrics=["loss", "acc"], axes=list(axes), show=False)
    assert figures == []
    assert used == list(axes)
    assert list(curves(axes[0])) == ["loss", "val_loss"]
    assert plt.fignum_exists(figure.number)  # it is not ours to close


@pytest.mark.parametrize("argument", ["labels", "titles", "axes"])
def test_numbers_that_differ_are_named(argument):
    with pytest.raises(InvalidArgumentError, match=rf"3 {argument} for 2 metrics \(loss, acc\)"):
        plot_history(HISTORY, metrics=["loss", "acc"], show=False, **{argument: [None] * 3})


def test_saving(tmp_path):
    plot_history(
        HISTORY,
        show=False,
        save=True,
        save_directory=tmp_path / "deep" / "plots",
        save_filename_template="my_{metric}",
        save_extensions=("png", ".pdf"),
    )
    names = {path.name for path in (tmp_path / "deep" / "plots").iterdir()}
    assert names == {f"my_{m}.{e}" for m in ("time", "loss", "acc") for e in ("png", "pdf")}
    assert (tmp_path / "deep/plots/my_loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "deep/plots/my_loss.pdf").read_bytes().startswith(b"%PDF")


def test_axes_of_ones_own_are_saved_too(tmp_path):
    _, ax = plt.subplots()
    plot_history(
        HISTORY, metrics=["loss"], axes=[ax], show=False, save=True, save_directory=tmp_path
    )
    assert (tmp_path / "loss.png").exists()


def test_figures_are_shown_then_closed(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.get_fignums())))
    plot_history(HISTORY)
    assert shown == [3]
    assert plt.get_fignums() == []
    plot_history(HISTORY, show=False, close=False)
    assert shown == [3]
    assert len(plt.get_fignums()) == 3


def test_figure_arguments():
    figures, _ = plot_history(
        HISTORY, metrics=["loss"], show=False, close=False, fig_kwargs={"figsize": (3, 2)}
    )
    assert tuple(figures[0].get_size_inches()) == (3, 2)


def test_plot_metric_draws_on_the_current_axes():
    _, ax = plt.subplots()
    plot_metric(HISTORY, "acc", title="Accuracy")
    assert list(curves(ax)) == ["acc", "val_acc"]
    assert ax.get_title() == "Accuracy"


def test_a_validation_without_values_is_not_drawn():
    ax = Figure().subplots()
    plot_metric([{"epoch": 1, "loss": 1.0, "val_loss": None}], "loss", ax=ax)
    assert list(curves(ax)) == ["loss"]


def test_missing_values_leave_gaps():
    ax = Figure().subplots()
    rows = [{"epoch": 4, "loss": 1.0, "val_loss": 3.0}, {"epoch": 5, "loss": 2.0}]
    plot_metric(rows, "loss", ax=ax)
    assert curves(ax)["loss"] == [1.0, 2.0]
    assert curves(ax)["val_loss"][0] == 3.0
    assert math.isnan(curves(ax)["val_loss"][1])
    assert list(ax.lines[0].get_xdata()) == [4, 5]


def test_a_single_metric_needs_no_list():
    _, axes = plot_history(HISTORY, metrics="acc", show=False, close=False)
    assert [list(curves(ax)) for ax in axes] == [["acc", "val_acc"]]


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r'no metric "accuracy"; did you mean "acc"\?'):
        plot_history(HISTORY, metrics=["accuracy"], show=False)
    with pytest.raises(UnknownNameError, match=r'no metric "los"; did you mean "loss"\?'):
        plot_history(HISTORY, metrics=["los"], show=False)


def test_an_empty_history_is_refused():
    with pytest.raises(InvalidArgumentError, match="history is empty"):
        plot_history([], show=False)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "clarion\[plot\]"'):
        plot_history(HISTORY)
    with pytest.raises(ImportError, match="plot_metric needs the package matplotlib"):
        plot_metric(HISTORY, "loss")


def test_save_plots_leaves_pyplot_alone(tmp_path):
    save_plots([*HISTORY, {"epoch": 3, "loss": None, "a/b": 1.0}], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{m}.{e}" for m in ("time", "loss", "acc", "a_b") for e in ("png", "pdf")}
    assert plt.get_fignums() == []
