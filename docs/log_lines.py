"""A table of the lines that a logger writes, from the source: the directive ``log-lines`` of a page.

```{log-lines} offload.server
```
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
LEVELS = {"critical": "CRITICAL", "error": "ERROR", "exception": "ERROR", "warning": "WARNING"}
"""By the method of a logger. Lines below WARNING tell of what goes as it should."""

_ORDER = ["CRITICAL", "ERROR", "WARNING"]
_VALUE = re.compile(r"%(?:\.\d)?[a-z]")


def lines() -> dict[str, list[tuple[str, str]]]:
    """By logger: the level and the text of each line, with ``…`` for values; the most severe first."""
    found: dict[str, set[tuple[str, str]]] = {}
    for package in ("offload", "django_offload"):
        for path in (ROOT / package).rglob("*.py"):
            for logger, level, text in _of(ast.parse(path.read_text())):
                found.setdefault(logger, set()).add((level, _VALUE.sub("…", text.partition("\n")[0])))
    return {
        logger: sorted(found[logger], key=lambda line: (_ORDER.index(line[0]), line[1].lower()))
        for logger in sorted(found)
    }


def _of(module: ast.Module) -> Iterator[tuple[str, str, str]]:
    """The logger, the level and the text of each line of a module."""
    loggers = {}
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[ast.Constant(value=str(logger))])):
                loggers[name] = logger
    for call in ast.walk(module):
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr=method), args=[ast.Constant(value=str(text)), *_]
            ) if method in LEVELS and name in loggers and re.search(r"\w", _VALUE.sub("", text)):
                yield loggers[name], LEVELS[method], text


class LogLines(SphinxDirective):
    """The table of one logger."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        escaped = [(level, text.replace("|", r"\|")) for level, text in lines()[self.arguments[0]]]
        rows = [f"| {level} | `{text}` |" for level, text in escaped]
        return self.parse_text_to_nodes("\n".join(["| level | line |", "| --- | --- |", *rows]))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("log-lines", LogLines)
    return {"parallel_read_safe": True}
