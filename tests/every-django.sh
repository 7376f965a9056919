#!/bin/sh
# every-django.sh PYTHON [PYTEST_ARGS]: runs the tests that need Django with each supported Django, and the newest, in the
# environment of this interpreter. Goes on after a failure, and says at the end where it failed.
set -u

python=$1
shift
ran= failed=
for wanted in '==4.2.*' '==5.2.*' '==6.0.*' '>6'; do
    if ! said=$("$python" -m pip install --quiet --disable-pip-version-check --upgrade "Django$wanted" 2>&1); then
        echo "== Django$wanted is not there for $("$python" -V): $(echo "$said" | tail -n 1)"
        continue
    fi
    version=$("$python" -m django --version)
    case " $ran $failed " in *" $version "*) continue ;; esac
    echo "== $("$python" -V), Django $version"
    if "$python" -m pytest tests/django tests/port tests/docs/test_django_tutorial.py "$@"; then
        ran="$ran $version"
    else
        failed="$failed $version"
    fi
done
"$python" -m pip install --quiet --disable-pip-version-check --upgrade Django
echo "== $("$python" -V) passed with Django:${ran:- none}; failed with:${failed:- none}"
[ -z "$failed" ]
