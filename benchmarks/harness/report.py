"""Results as JSON files, and from those a Markdown table of all targets measured so far."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.model import Comparison, Entry, Result, Sample, figure


def write_json(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(result), indent=1)
    (folder / f"{result.target}.json").write_text(text + "\n")


def read_json(folder: Path) -> list[Result]:
    """All results in `folder`, in the order of the targets' numbers."""
    results = []
    for path in sorted(folder.glob("*.json"), key=_order):
        data = json.loads(path.read_text())
        data["entries"] = [
            Entry(**{**entry, "samples": [Sample(**sample) for sample in entry["samples"]]})
            for entry in data["entries"]
        ]
        data["comparisons"] = [Comparison(**comparison) for comparison in data["comparisons"]]
        results.append(Result(**data))
    return results


def _order(path: Path) -> tuple[int, str]:
    number = re.match(r"p(\d+)", path.stem)
    return (int(number[1]) if number else 0, path.stem)


def markdown(results: list[Result]) -> str:
    """The page of results."""
    parts = ["# Benchmark results\n\nMade by `python -m benchmarks`; the method stands in [README.md](README.md).\n"]
    if results:
        parts.append(_machine(results[0]))
    parts.extend(_section(result) for result in results)
    return "\n".join(parts)


def _machine(result: Result) -> str:
    names = {"cpu": "CPU", "cpus": "CPUs", "cc": "C compiler", "redis": "Redis"}
    rows = [f"| {names.get(key, key.capitalize())} | {value} |" for key, value in result.machine.items()]
    return "\n".join(["| Machine | |", "| --- | --- |", *rows, ""])


def _section(result: Result) -> str:
    better = "higher is better" if result.higher_is_better else "lower is better"
    rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
    length = "" if result.seconds is None else f", {result.seconds:g} s each"
    lines = [
        f"## {result.target.upper()}: {result.title}",
        "",
        f"{result.work[0].upper()}{result.work[1:]}. Median (min to max) of {rounds}"
        f"{' with each peer' if len(result.entries) > 1 else ''}{length}; {better}; {result.pinned}; {result.when}.",
        "",
        f"| server | {result.unit} | offload ÷ it | must reach | reached | p99 | CPU server, client | remarks |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | --- |",
    ]
    comparisons = {comparison.peer: comparison for comparison in result.comparisons}
    for index, entry in enumerate(result.entries):
        lines.append(_row(result, entry, None if index == 0 else comparisons.get(entry.name)))
    lines += ["", f"![{result.title}](plots/{result.target}.png)", ""]
    return "\n".join(lines)


def _row(result: Result, entry: Entry, comparison: Comparison | None) -> str:
    about = [item for item in result.requirements if item["peer"] == (comparison.peer if comparison else None)]
    must = "; ".join(item["text"] for item in about)
    reached = "; ".join({True: "yes", False: "**no**", None: "not measured"}[item["reached"]] for item in about)
    remarks = [", ".join(f"{name} {version}" for name, version in entry.versions.items())]
    remarks += sorted({sample.note for sample in entry.samples})
    if entry.error:
        remarks.append(f"**failed:** {entry.error}")
    cells = [
        f"**{entry.label}**" if comparison is None else entry.label,
        spread(entry.values, figure),
        spread(comparison.ratios, "{:.2f}".format) if comparison else "",
        must,
        reached,
        _detail(entry, lambda detail: detail["latency_us"]["p99"] / 1000, "{:.2f} ms"),
        " ".join(_detail(entry, lambda detail, key=key: detail[key], "{:.2f}") for key in ("server_cpu", "client_cpu")),
        "; ".join(remark.replace("|", "\\|") for remark in remarks if remark),
    ]
    return "| " + " | ".join(cells) + " |"


def spread(figures: list[float], form: Callable[[float], str]) -> str:
    """Median, and in brackets the least and the most of several figures."""
    if not figures:
        return "-"
    median = form(statistics.median(figures))
    if len(figures) == 1:
        return median
    return f"{median} ({form(min(figures))} to {form(max(figures))})"


def _detail(entry: Entry, read: Callable[[Any], float], form: str) -> str:
    try:
        figures = [read(sample.detail) for sample in entry.samples]
    except KeyError:
        return ""
    return form.format(statistics.median(figures)) if figures else ""
