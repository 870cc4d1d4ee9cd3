#!/bin/bash
# The images that Orion's are built on, made on this machine, for where nothing can be pulled from a registry:
# debian:bookworm-slim by mmdebstrap, and stand-ins for the images of MariaDB, Caddy and Alpine out of Debian's
# packages (docker/stand-ins). For the tests; whoever has a registry does not need it. What is there stays.
#
# Packages come from the mirrors that this machine's apt uses. Tarballs are kept in target/docker.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: docker/base-images.sh

Makes debian:bookworm-slim, orion-stand-in/mariadb, orion-stand-in/caddy and orion-stand-in/alpine where they
are missing. docker, as DOCKER_HOST says (docker/engine.sh --env); root and Debian's mmdebstrap for the tarballs;
gcc, make and dpkg-dev for a BusyBox like Alpine's.
USAGE
}
case ${1:-} in
    '') ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 1 ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$here/../target/docker
busybox=$here/../target/tmp/orion-busybox/busybox
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin LC_ALL=C # Debian's docker first
export DOCKER_BUILDKIT=1
mkdir -p "$cache"

has() { docker image inspect "$1" >/dev/null 2>&1; }
apt_sources() { find /etc/apt/sources.list.d -name 'debian*.sources' -o -name 'debian*.list' | sort; }
# What makes apt work here makes it work in there: proxies, ages of lists that are accepted.
apt_options() { apt-config dump Acquire::Check-Valid-Until Acquire::Check-Date Acquire::http::Proxy Acquire::https::Proxy; }

debian() {
    local sources=()
    mapfile -t sources < <(apt_sources)
    [ ! -s /etc/apt/sources.list ] || sources+=(/etc/apt/sources.list)
    apt_options >"$cache/apt.conf"
    # A mirror that stumbles is asked again; the images that are built on this one inherit it.
    echo 'Acquire::Retries "5";' >>"$cache/apt.conf"
    mmdebstrap --quiet --variant=minbase --aptopt="$cache/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        bookworm "$cache/debian.new.tar" "${sources[@]}"
    mv "$cache/debian.new.tar" "$cache/debian.tar"
}
if ! has debian:bookworm-slim; then
    [ -s "$cache/debian.tar" ] || debian
    docker import --change 'CMD ["bash"]' "$cache/debian.tar" debian:bookworm-slim >/dev/null
fi
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$here"/stand-ins/* "$context"
for name in mariadb caddy alpine; do
    ! has "orion-stand-in/$name" || continue
    if [ "$name" = alpine ]; then # with the BusyBox of the playbooks' tests, which is configured as Alpine's
        sh "$here/../launch_workers/busybox.sh" "$busybox"
        cp "$busybox" "$context"
    fi
    docker build --quiet --network host --tag "orion-stand-in/$name" --file "$context/$name.Dockerfile" "$context" >/dev/null
done
