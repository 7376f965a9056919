#!/bin/sh
# Installs the programs that the tests talk to, where the system's packages may be installed; elsewhere it says what
# is missing, and the tests that need it are skipped (or fail, under CI=true).
set -eu

missing=
need() {
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need redis-server redis-server
need chromium chromium
need chromedriver chromium-driver
need openssl openssl
need logrotate logrotate
need ip iproute2
# Proxies are where only root looks for programs.
PATH="$PATH:/usr/sbin:/sbin"
need nginx nginx
need haproxy haproxy
need caddy caddy
need systemd-analyze systemd
need docker-compose docker-compose
command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "tests: these programs are missing, and their tests will be skipped:$missing" >&2
    exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "tests: their tests will be skipped until you run: sudo apt-get install$missing" >&2
        exit 0
    fi
    as_root=sudo
fi
echo "tests: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# Services that a package starts by itself would take ports that are not ours to take.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
log=$(mktemp)
# shellcheck disable=SC2086
if ! { $as_root apt-get update && $as_root apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "tests: could not install$missing; their tests will be skipped, or fail under CI=true" >&2
    exit 0
fi
rm -f "$log"
