#!/bin/bash
# Orion's images out of programs that are compiled already, where the images' own build stage cannot run (no
# registry) or would take too long (the tests).
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: docker/build-images.sh DIR NAME...

Builds orion/NAME (control-plane, scheduler, worker, worker-alpine) from the programs in DIR, which is a
directory of cargo such as target/debug. They are stripped first. docker, as DOCKER_HOST says.
With ORION_IMAGE_TAG the one image gets that name.
worker-alpine is built on orion-stand-in/alpine if that is there, and takes DIR/orion-agent-static.
USAGE
}
[ $# -ge 2 ] || { usage >&2 && exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin LC_ALL=C # Debian's docker first
export DOCKER_BUILDKIT=1
programs=$1
shift
alpine=alpine:3
! docker image inspect orion-stand-in/alpine >/dev/null 2>&1 || alpine=orion-stand-in/alpine

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/out"
for name in "$@"; do
    case $name in
        control-plane) needed='orion orion-control-plane' ;;
        scheduler) needed=orion-scheduler ;;
        worker) needed=orion-agent ;;
        worker-alpine) needed=orion-agent-static ;;
        *) echo "docker/build-images.sh: there is no image '$name'" >&2 && exit 1 ;;
    esac
    for program in $needed; do
        [ -f "$programs/$program" ] || {
            echo "docker/build-images.sh: $programs/$program is not there" >&2
            echo "hint: cargo build --workspace" >&2
            exit 1
        }
        strip -o "$scratch/out/$program" "$programs/$program"
    done
done
# The same programs give the same image, and so the layers that are there already.
tar -C "$scratch" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - out |
    docker import - orion-binaries >/dev/null
for name in "$@"; do
    docker build --quiet --network host --build-arg BINARIES=orion-binaries --build-arg ALPINE="$alpine" \
        --file "$here/$name.Dockerfile" --tag "${ORION_IMAGE_TAG:-orion/$name}" "$here/.." >/dev/null
done
