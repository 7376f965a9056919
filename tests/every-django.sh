#!/bin/sh
# every-django.sh PYTHON [PYTEST_ARGS]: runs the tests that need Django with each supported Django, in the environment of
# this interpreter. Goes on after a failure, and says at the end where it failed.
set -u

python=$1
shift
ran= failed=
for version in 4.2 5.2 6.0; do
    if ! "$python" -m pip install --quiet --disable-pip-version-check "Django==$version.*"; then
        echo "== Django $version is not there for $("$python" -V)"
        continue
    fi
    echo "== $("$python" -V), Django $("$python" -m django --version)"
    if "$python" -m pytest tests/django tests/port tests/docs/test_django_tutorial.py "$@"; then
        ran="$ran $version"
    else
        failed="$failed $version"
    fi
done
"$python" -m pip install --quiet --disable-pip-version-check --upgrade Django
echo "== $("$python" -V) passed with Django:${ran:- none}; failed with:${failed:- none}"
[ -z "$failed" ]
