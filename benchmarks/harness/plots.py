"""One bar chart for each result: `python -m benchmarks.harness.plots RESULTS PLOTS`, where matplotlib is installed."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.harness.model import OURS, Result
from benchmarks.harness.model import figure as figure_of
from benchmarks.harness.report import read_json

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR, INK = "#1b6ca8", "#c9c9c9", "#8fb3cc", "#333333"


def draw(result: Result, path: Path) -> None:
    """Medians as bars, least and most as whiskers, best on top."""
    entries = [entry for entry in result.entries if entry.values]
    entries.sort(key=lambda entry: statistics.median(entry.values), reverse=not result.higher_is_better)
    medians = [statistics.median(entry.values) for entry in entries]
    below = [median - min(entry.values) for median, entry in zip(medians, entries, strict=True)]
    above = [max(entry.values) - median for median, entry in zip(medians, entries, strict=True)]
    colours = {OURS: OURS_COLOUR, "c-limit": LIMIT_COLOUR}
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.45 * max(1, len(entries))), layout="constrained")
    axes.barh(
        [entry.label for entry in entries],
        medians,
        xerr=[below, above],
        color=[colours.get(entry.name, PEER_COLOUR) for entry in entries],
        ecolor=INK,
        height=0.65,
    )
    for position, (median, high) in enumerate(zip(medians, above, strict=True)):
        axes.annotate(
            figure_of(median),
            (median + high, position),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    better = "higher" if result.higher_is_better else "lower"
    axes.set_title(result.title, loc="left", fontsize=11)
    axes.set_xlabel(f"{result.unit} ({better} is better)")
    axes.xaxis.set_major_formatter(lambda value, _: figure_of(value) if value % 1 else f"{value:,.0f}")
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    results, plots = Path(sys.argv[1]), Path(sys.argv[2])
    plots.mkdir(parents=True, exist_ok=True)
    for item in read_json(results):
        draw(item, plots / f"{item.target}.png")
