"""Tables and a plot of what was measured.

    python benchmarks/report.py docs/performance-results.json

writes the page and the plot anew from results that are kept.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import wrap
from typing import Any

from workloads import WORKLOADS

__all__ = ["disagreements", "ratio", "table", "write_pages"]

MIB = 2**20
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
PLOTTED = ("arrays", "batches", "images", "scoring", "texts", "start")

Rounds = list[dict[str, Any]]
Column = tuple[str, Callable[[Rounds, Rounds], str]]


def table(workload: str, runs: dict[str, Rounds]) -> str:
    """Return the table of a workload in Markdown, which reads well in a terminal too.

    Args:
        workload: Its name.
        runs: What each contender came to, round by round.
    """
    columns = COLUMNS[WORKLOADS[workload].kind]
    yardstick = _sound(runs[WORKLOADS[workload].contenders[0]])
    rows = [["", *(title for title, _ in columns)]]
    for contender, rounds in runs.items():
        sound = _sound(rounds)
        values = [value(sound, yardstick) if sound else "-" for _, value in columns]
        rows.append([contender, *values])
    return _markdown(rows)


def disagreements(workload: str, runs: dict[str, Rounds]) -> list[str]:
    """Return who failed, saw other examples, or came to another loss than the yardstick."""
    tolerance = WORKLOADS[workload].tolerance
    yardstick = _sound(runs[WORKLOADS[workload].contenders[0]])
    expected = {key: _median(yardstick, key) for key in ("loss", "f1") if _has(yardstick, key)}
    troubles = []
    for contender, rounds in runs.items():
        failed = [one["error"] for one in rounds if "error" in one]
        if failed:
            troubles.append(f"{workload}: {contender} failed: {failed[0].strip().splitlines()[-1]}")
        sound = _sound(rounds)
        if any(one.get("rows", 1.0) != 1.0 for one in sound):
            troubles.append(f"{workload}: {contender} saw {sound[0]['rows']} of the examples.")
        for key, value in expected.items():
            if _has(sound, key) and abs(_median(sound, key) / value - 1) > tolerance:
                found = _median(sound, key)
                troubles.append(f"{workload}: {contender} has {key} {found:.4f}, not {value:.4f}.")
    return troubles


def ratio(rounds: Rounds, yardstick: Rounds) -> float:
    """Return the median over rounds of processor time per step as a ratio to the yardstick's."""
    pairs = zip(rounds, yardstick, strict=False)
    return statistics.median(_each(own) / _each(bare) for own, bare in pairs)


def write_pages(file: Path) -> None:
    """Write the page of tables and the plot that belong to a file of results, beside it."""
    kept = json.loads(file.read_text("utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in kept["versions"].items())
    parts = [f"Measured with {versions}."]
    if kept["scale"] != 1.0:
        parts.append(f"**Tried out on data of {kept['scale']} times the size: not to be quoted.**")
    for name, runs in kept["runs"].items():
        rounds = max(len(one) for one in runs.values())
        about = "one run" if rounds == 1 else f"medians of {rounds} rounds"
        made = kept.get("made", {}).get(name, "where and when is not known")
        about = f"`{name}`, {about}; {made}."
        parts += [f"### {WORKLOADS[name].title}", about, table(name, runs)]
    file.with_suffix(".md").write_text("\n\n".join(parts) + "\n", "utf-8")
    plot(kept["runs"], file.with_suffix(".png"))


def plot(runs: dict[str, dict[str, Rounds]], file: Path) -> None:
    """Draw the ratios of each workload as bars along a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    shown = [name for name in PLOTTED if name in runs]
    if not shown:
        return
    heights = [max(len(runs[name]) for name in shown[i : i + 2]) for i in range(0, len(shown), 2)]
    size = (12, 1.2 * len(heights) + 0.24 * sum(heights))
    options: dict[str, Any] = {"height_ratios": heights, "layout": "constrained"}
    figure, axes = plt.subplots(len(heights), 2, figsize=size, squeeze=False, **options)
    for axis, name in zip(axes.flat, shown, strict=False):
        _draw(axis, name, runs[name])
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    figure.suptitle("Processor time as a ratio to a PyTorch loop by hand (shorter is better)")
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw(axis: Any, name: str, runs: dict[str, Rounds]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    yardstick = _sound(runs[WORKLOADS[name].contenders[0]])
    bars = {one: ratio(_sound(rounds), yardstick) for one, rounds in runs.items() if _sound(rounds)}
    names = sorted(bars, key=bars.__getitem__, reverse=True)
    colours = [_colour(one) for one in names]
    drawn = axis.barh(names, [bars[one] for one in names], color=colours, left=0)
    labels = axis.bar_label(drawn, [f"{bars[one]:.2f}" for one in names], padding=3, fontsize=8)
    for label in labels:  # in front of the line at 1
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.set_xscale("log")
    lowest, highest = min(bars.values()), max(bars.values())
    axis.set_xlim(min(0.5 * lowest, 0.5), 2.2 * highest)
    axis.axvline(1.0, color="black", linewidth=0.8, zorder=0)
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="y", labelsize=9)
    axis.set_title("\n".join(wrap(WORKLOADS[name].title, 52)), fontsize=10, loc="left")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _colour(contender: str) -> str:
    framework = contender.partition(":")[0]
    return {"clarion": "#c2410c", "bare": "#1f2937", "dataloader": "#1f2937"}.get(
        framework, "#94a3b8"
    )


def _sound(rounds: Rounds) -> Rounds:
    return [one for one in rounds if "error" not in one]


def _has(rounds: Rounds, key: str) -> bool:
    return bool(rounds) and key in rounds[0]


def _median(rounds: Rounds, key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def _each(run: dict[str, Any]) -> float:
    seconds: float = run["cpu"] / run.get("steps", 1)
    return seconds


def _of(key: str, form: str = ".3f", factor: float = 1.0) -> Callable[[Rounds, Rounds], str]:
    return lambda rounds, _: f"{factor * _median(rounds, key):{form}}"


def _microseconds(rounds: Rounds, _: Rounds) -> str:
    return f"{1e6 * statistics.median(map(_each, rounds)):.0f}"


def _ratio(rounds: Rounds, yardstick: Rounds) -> str:
    return f"{ratio(rounds, yardstick):.2f}"


def _spread(rounds: Rounds, yardstick: Rounds) -> str:
    ratios = [_each(a) / _each(b) for a, b in zip(rounds, yardstick, strict=False)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _beyond(rounds: Rounds, yardstick: Rounds) -> str:
    pairs = zip(rounds, yardstick, strict=False)
    return f"{statistics.median(own['cpu'] - bare['cpu'] for own, bare in pairs):.2f}"


def _part(name: str, key: str, form: str, factor: float) -> Callable[[Rounds, Rounds], str]:
    return lambda rounds, _: f"{factor * statistics.median(r[name][key] for r in rounds):{form}}"


RATIO: list[Column] = [("ratio", _ratio), ("lowest to highest", _spread)]
STEP: Column = ("µs per step", _microseconds)
PROCESS: list[Column] = [("seconds", _of("cpu", ".2f")), ("beyond bare", _beyond), *RATIO]

COLUMNS: dict[str, list[Column]] = {
    "fit": [STEP, *RATIO, ("loss", _of("loss"))],
    "score": [
        STEP,
        *RATIO,
        ("evaluate, ms", _part("evaluate", "cpu", ".0f", 1e3)),
        ("predict, ms", _part("predict", "cpu", ".0f", 1e3)),
        ("growth in evaluate, MiB", _part("evaluate", "growth", ".1f", 1 / MIB)),
        ("in predict", _part("predict", "growth", ".1f", 1 / MIB)),
        ("loss", _of("loss")),
        ("F1", _of("f1")),
    ],
    "import": PROCESS,
    "start": PROCESS,
    "reads": [
        (f"{kind}, {stage}", _of(f"{stage} {key}", "g"))
        for stage in ("train", "valid")
        for kind, key in (("reads", "reads"), ("copies", "copies"), ("operations", "operations"))
    ],
    "long": [
        ("steps", _of("steps", ",.0f")),
        STEP,
        *RATIO[:1],
        ("growth, MiB", _of("growth", ".2f", 1 / MIB)),
        ("last quarter / first", _of("slower", ".2f")),
    ],
}
"""By kind: headings, and what each makes of a contender's rounds and the yardstick's."""


def _markdown(rows: Iterable[list[str]]) -> str:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: list[str]) -> str:
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if not i else "-" * (width + 1) + ":" for i, width in enumerate(widths)
    )
    return "\n".join([line(rows[0]), rule + "|", *(line(row) for row in rows[1:])])


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
