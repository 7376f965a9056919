#!/bin/sh
# Runs the tests in a virtual environment of its own for each supported Python that this machine has.
set -eu

found=
for version in 3.10 3.11 3.12 3.13 3.14; do
    "python$version" -c '' 2>/dev/null || continue
    found="$found $version"
    echo "== Python $version"
    make test VENV=".venv-py$version" PYTHON="python$version" PYTEST_ARGS="$*"
done
[ -n "$found" ] || { echo "no supported Python (3.10 or newer) found" >&2; exit 1; }
