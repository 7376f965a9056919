#!/bin/sh
# every-python.sh TARGET [PYTEST_ARGS]: makes a target, in a virtual environment of its own, for each supported Python
# that this machine has: on the path, or from pyenv. Goes on after a failure, and says at the end where it failed.
set -u

interpreter() {
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        "$python" -c '' 2>/dev/null && echo "$python" && return
    done
    return 1
}

target=$1
shift
ran= failed=
for version in 3.10 3.11 3.12 3.13 3.14; do
    python=$(interpreter "$version") || continue
    echo "== Python $version: make $target"
    if make "$target" VENV=".venv-py$version" PYTHON="$python" PYTEST_ARGS="$*"; then
        ran="$ran $version"
    else
        failed="$failed $version"
    fi
done
[ -n "$ran$failed" ] || { echo "no supported Python (3.10 or newer) found" >&2; exit 1; }
echo "== make $target passed on Python:${ran:- none}; failed on:${failed:- none}"
[ -z "$failed" ]
