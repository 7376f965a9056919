"""The nouns of the suite: contenders give samples, and samples make a result."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

OURS = "offload"
BEFORE = "before"
"""Ours too, at an earlier commit (``--before``)."""


class BenchmarkError(Exception):
    """Something that a contender, a tool or the machine did wrong; its text goes into the table."""


def figure(value: float) -> str:
    """A figure as people read it: small ones, which are ratios, not rounded away."""
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


@dataclasses.dataclass(frozen=True)
class Contender:
    """A server that can be started, and where its work is.

    `command` and `environment` are formatted with `port`, `redis_port`, `redis_url`, `postgres` (the directory of its
    socket), `bin` (of the Python peers' virtual environment), `before` (where an earlier commit of ours is), `node`,
    `suite` (the benchmarks directory) and `build` (what the C compiler made).
    """

    name: str
    label: str
    command: tuple[str, ...]
    path: str = "/"
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    """Distributions on PyPI, or packages of npm when `runtime` is "node"."""
    accelerators: tuple[str, ...] = ()
    """Distributions that its documentation recommends for speed: used if they can be installed."""
    runtime: str = "python"
    """"python", "node" or "native"."""
    redis: bool = False
    postgres: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it has no easier way: its figure is asked for at the full size."""
        return self.name in (OURS, BEFORE)

    def before(self, revision: str) -> Contender:
        """The same of an earlier commit: its packages, this commit's application."""
        return dataclasses.replace(
            self,
            name=BEFORE,
            label=f"{self.label} at {revision}",
            command=tuple(part.replace("{bin}", "{before}/.venv/bin") for part in self.command),
            environment={**self.environment, "PYTHONPATH": "{before}"},
        )


@dataclasses.dataclass(frozen=True)
class Requirement:
    """What ours must reach: a ratio against a peer, or (without a peer) a figure."""

    peer: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def text(self) -> str:
        limit = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{limit} times" if self.peer else limit

    def reached(self, figure: float) -> bool:
        if self.at_least is not None:
            return figure >= self.at_least
        return self.at_most is None or figure <= self.at_most


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measured figure, and what else the client and /proc had to say about it."""

    value: float
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""


@dataclasses.dataclass
class Entry:
    """What one contender showed in one target."""

    name: str
    label: str
    versions: dict[str, str]
    samples: list[Sample] = dataclasses.field(default_factory=list)
    error: str | None = None

    @property
    def values(self) -> list[float]:
        return [sample.value for sample in self.samples]


@dataclasses.dataclass
class Comparison:
    """Ours divided by a peer, once for each round in which both were measured, one after the other."""

    peer: str
    ratios: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Result:
    """All of one target, as written to results/<target>.json."""

    target: str
    title: str
    work: str
    unit: str
    higher_is_better: bool
    when: str
    rounds: int
    seconds: float | None
    """Measured time of each turn; None when a turn lasts as long as it takes."""
    pinned: str
    machine: dict[str, str]
    entries: list[Entry]
    comparisons: list[Comparison]
    requirements: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def judge(self, requirements: tuple[Requirement, ...]) -> None:
        """Set `requirements`: each with what was measured, and whether it is reached (None: not measured)."""
        ratios = {comparison.peer: comparison.ratios for comparison in self.comparisons}
        for requirement in requirements:
            figures = ratios.get(requirement.peer, []) if requirement.peer else self.entries[0].values
            figure = statistics.median(figures) if figures else None
            self.requirements.append(
                {
                    "peer": requirement.peer,
                    "text": requirement.text(),
                    "measured": figure,
                    "reached": None if figure is None else requirement.reached(figure),
                }
            )
