"""The command: finds files, prints the diff and the notes, and writes the files where it is told to."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_NO_LIBCST = "python -m django_offload.port needs the libcst package; run: pip install 'django-offload[port]'"
_SKIPPED = frozenset(("node_modules", "site-packages", "__pycache__", "build", "dist"))
_OTHER_FILES = re.compile(
    r"Procfile.*|Dockerfile.*|Makefile|Pipfile|.*\.(ya?ml|toml|ini|cfg|sh|service|conf)|.*requirements.*\.txt"
)
_OTHER_NAMES = re.compile(
    r"\b(daphne|asgi[-_](?:redis|ipc|rabbitmq)|channels[-_]redis|rundelay|channels(?=\s*[=<>~]))\b"
)
_REMEDIES = {
    "daphne": "run offload project.wsgi",
    "rundelay": "layers keep delayed messages themselves; delete it",
    "channels": "install django-offload",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where nothing could be done."""
    parser = argparse.ArgumentParser(
        prog="python -m django_offload.port",
        description="Print what code for Channels 1 has to change in imports and settings, as a diff; "
        "and, after it, what is left to people.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a file, or a directory with all below it")
    parser.add_argument("--write", action="store_true", help="change the files, too")
    options = parser.parse_args(arguments)
    if not options.path.exists():
        parser.error(f"there is no {str(options.path)!r}")
    try:
        from libcst import ParserSyntaxError

        from django_offload.port.rewrite import rewrite
    except ModuleNotFoundError as error:
        if error.name != "libcst":
            raise
        parser.error(_NO_LIBCST)
    notes: list[str] = []
    for path in _files(options.path):
        if path.suffix != ".py":
            notes += _notes_of_text(path)
            continue
        with path.open(newline="", encoding="utf-8") as file:
            try:
                source = file.read()
                result = rewrite(source)
            except (ParserSyntaxError, UnicodeDecodeError) as error:
                notes.append(f"{path}: not read, since it is no Python 3: {str(error).splitlines()[0]}")
                continue
        notes += [f"{path}:{line}: {text}" for line, text in result.notes]
        if result.source != source:
            shown = path.name if path == options.path else path.relative_to(options.path)
            sys.stdout.writelines(_diff(shown, source, result.source))
            if options.write:
                with path.open("w", newline="", encoding="utf-8") as file:
                    file.write(result.source)
    if notes:
        sys.stdout.write("\n".join(["Left to you:", *notes, ""]))
    return 0


def _files(path: Path) -> Iterator[Path]:
    """The files to be read, without those of virtual environments and hidden directories."""
    if path.is_file():
        yield path
        return
    for entry in sorted(path.iterdir()):
        if entry.is_symlink() or entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir():
            if not (entry / "pyvenv.cfg").exists():
                yield from _files(entry)
        elif entry.suffix == ".py" or _OTHER_FILES.fullmatch(entry.name):
            yield entry


def _notes_of_text(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if found := _OTHER_NAMES.search(line):
            remedy = _REMEDIES.get(found[1], "install django-offload[redis]")
            yield f"{path}:{number}: {found[1]}: {remedy}"


def _diff(path: Path | str, old: str, new: str) -> Iterator[str]:
    for line in difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    ):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


if __name__ == "__main__":
    sys.exit(main())
