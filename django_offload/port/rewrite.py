"""Rewrites one module's source, and notes what is left to people. Knows names from `names`, and files not at all."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst
from libcst import metadata

from django_offload.port.names import (
    APPS,
    ATTRIBUTES,
    BACKENDS,
    CONFIG_KEYS,
    IMPORTS,
    KNOWN_CONFIG,
    PACKAGES,
    SETTINGS,
)


@dataclass
class Rewritten:
    """
    Attributes:
        source: the new text.
        notes: line numbers of the old text, and what a person has to decide there.
    """

    source: str
    notes: list[tuple[int, str]] = field(default_factory=list)


def rewrite(source: str) -> Rewritten:
    """
    Raises:
        libcst.ParserSyntaxError: it is no Python 3.
    """
    wrapper = metadata.MetadataWrapper(cst.parse_module(source))
    notes: list[tuple[int, str]] = []
    module = wrapper.visit(_Rewriter(notes))
    return Rewritten(module.code, sorted(notes))


class _Rewriter(cst.CSTTransformer):
    METADATA_DEPENDENCIES = (metadata.PositionProvider,)

    def __init__(self, notes: list[tuple[int, str]]) -> None:
        super().__init__()
        self._notes = notes
        # The names of the settings whose values are being read.
        self._settings: list[str] = []

    def _note(self, node: cst.CSTNode, text: str) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        self._notes.append((position.start.line, text))

    # Imports

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
        statement = updated_node.body[0]
        if len(updated_node.body) != 1 or not isinstance(statement, cst.ImportFrom) or statement.module is None:
            return updated_node
        if statement.relative:
            return updated_node
        module = _dotted(statement.module)
        if not _is_of_channels(module):
            return updated_node
        if isinstance(statement.names, cst.ImportStar):
            self._note(original_node, f"from {module} import *: name what is used")
            return updated_node
        new, kept = self._places(original_node, module, statement.names)
        if not new:
            return updated_node
        lines = [_import_line(place, names) for place, names in new.items()]
        if kept:
            lines.append(
                cst.SimpleStatementLine([statement.with_changes(names=_without_comma(kept), lpar=None, rpar=None)])
            )
        lines[0] = lines[0].with_changes(leading_lines=updated_node.leading_lines)
        lines[-1] = lines[-1].with_changes(trailing_whitespace=updated_node.trailing_whitespace)
        return cst.FlattenSentinel(lines)

    def _places(
        self, node: cst.CSTNode, module: str, names: Sequence[cst.ImportAlias]
    ) -> tuple[dict[str, list[tuple[str, str]]], list[cst.ImportAlias]]:
        """By new module: pairs of its name and the name that the code uses; and what is not known."""
        new: dict[str, list[tuple[str, str]]] = {}
        kept = []
        for alias in names:
            name = _dotted(alias.name)
            used = alias.evaluated_alias or name
            place = IMPORTS.get(module, {}).get(name)
            if place is None:
                inner = f"{module}.{name}"
                what = "a module; import its names" if inner in IMPORTS else "nothing that offload has"
                self._note(node, f"{inner} is {what}")
                kept.append(alias)
            else:
                new.setdefault(place[0], []).append((place[1], used))
        return new, kept

    def visit_Import(self, node: cst.Import) -> None:
        for alias in node.names:
            name = _dotted(alias.name)
            if _is_of_channels(name):
                self._note(node, f"import {name}: write from ... import ..., so that each name can be found")

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if node.attr.value in ATTRIBUTES:
            self._note(node, f".{node.attr.value}: {ATTRIBUTES[node.attr.value]}")

    # Settings

    def visit_Assign(self, node: cst.Assign) -> None:
        self._settings.append(_target(node.targets[0].target))
        if self._settings[-1] in SETTINGS:
            self._note(node, f"{self._settings[-1]}: {SETTINGS[self._settings[-1]]}")

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign:
        self._settings.pop()
        return updated_node

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._settings.append(_target(node.target))

    def leave_AugAssign(self, original_node: cst.AugAssign, updated_node: cst.AugAssign) -> cst.AugAssign:
        self._settings.pop()
        return updated_node

    def leave_List(self, original_node: cst.List, updated_node: cst.List) -> cst.List:
        return updated_node.with_changes(elements=self._apps(updated_node.elements))

    def leave_Tuple(self, original_node: cst.Tuple, updated_node: cst.Tuple) -> cst.Tuple:
        return updated_node.with_changes(elements=self._apps(updated_node.elements))

    def _apps(self, elements: Sequence[cst.BaseElement]) -> Sequence[cst.BaseElement]:
        if "INSTALLED_APPS" not in self._settings:
            return elements
        apps = []
        for element in elements:
            app = _text(element.value)
            if app not in APPS:
                apps.append(element)
            elif (new := APPS[app]) is not None:
                apps.append(element.with_changes(value=_string(element.value, new)))
        if apps and apps[-1] is not elements[-1]:
            # With it go the line break and the bracket's indentation.
            apps[-1] = apps[-1].with_changes(comma=elements[-1].comma)
        return apps

    def leave_DictElement(self, original_node: cst.DictElement, updated_node: cst.DictElement) -> cst.DictElement:
        if "CHANNEL_LAYERS" not in self._settings:
            return updated_node
        key = _text(updated_node.key)
        if key == "BACKEND":
            return self._with_backend(original_node, updated_node)
        if key in ("CONFIG", "TEST_CONFIG") and isinstance(updated_node.value, cst.Dict):
            return updated_node.with_changes(value=self._with_config(original_node, updated_node.value))
        return updated_node

    def _with_backend(self, node: cst.CSTNode, element: cst.DictElement) -> cst.DictElement:
        backend = _text(element.value)
        if backend in BACKENDS:
            return element.with_changes(value=_string(element.value, BACKENDS[backend]))
        if backend is None or not backend.startswith(("offload.", "django_offload.")):
            self._note(node, f"BACKEND {backend or 'that is no plain text'}: use one of {', '.join(_OURS)}")
        return element

    def _with_config(self, node: cst.CSTNode, config: cst.Dict) -> cst.Dict:
        elements = []
        for element in config.elements:
            if isinstance(element, cst.DictElement) and (key := _text(element.key)) is not None:
                new = CONFIG_KEYS.get(key, key)
                if new not in KNOWN_CONFIG:
                    self._note(
                        node, f"CONFIG {key!r}: no layer of offload has it; delete it, or see the page on layers"
                    )
                value = _hosts(element.value) if new == "hosts" else element.value
                element = element.with_changes(key=_string(element.key, new), value=value)
            elements.append(element)
        return config.with_changes(elements=elements)


_OURS = sorted(set(BACKENDS.values()))


def _is_of_channels(module: str) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in PACKAGES)


def _dotted(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


def _target(node: cst.BaseExpression) -> str:
    return node.value if isinstance(node, cst.Name) else ""


def _import_line(module: str, names: Sequence[tuple[str, str]]) -> cst.SimpleStatementLine:
    parts = (name if name == used else f"{name} as {used}" for name, used in names)
    line = cst.parse_statement(f"from {module} import {', '.join(parts)}")
    assert isinstance(line, cst.SimpleStatementLine)
    return line


def _without_comma(names: list[cst.ImportAlias]) -> list[cst.ImportAlias]:
    return [*names[:-1], names[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)]


def _text(node: cst.BaseExpression | None) -> str | None:
    if isinstance(node, (cst.SimpleString, cst.ConcatenatedString)):
        value = node.evaluated_value
        return value if isinstance(value, str) else None
    return None


def _string(node: cst.BaseExpression, text: str) -> cst.BaseExpression:
    """The same with another text, in quotes of the same kind."""
    quote = node.quote if isinstance(node, cst.SimpleString) else '"'
    return cst.SimpleString(f"{quote}{text}{quote}")


def _hosts(node: cst.BaseExpression) -> cst.BaseExpression:
    """A list of hosts, with addresses in the place of pairs of a name and a port."""
    if not isinstance(node, cst.List):
        return node
    elements = []
    for element in node.elements:
        if isinstance(element.value, cst.Tuple):
            try:
                host, port = ast.literal_eval(cst.Module([]).code_for_node(element.value))
            except (ValueError, SyntaxError):
                pass  # made of variables, which the layer understands as well
            else:
                element = element.with_changes(value=cst.SimpleString(f'"redis://{host}:{port}"'))
        elements.append(element)
    return node.with_changes(elements=elements)
