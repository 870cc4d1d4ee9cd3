#!/bin/bash
# A Docker engine of its own, beside whatever else runs on the machine: own data, own socket, own network, no
# change to the machine's firewall. For the tests, and for people without a Docker service. Needs root and
# Debian's docker.io.
#
# dockerd and all that it starts live in a mount and a PID namespace of their own: when the first process in
# there is killed, every container, shim and mount goes with it, also after a crash. What stays on the machine
# are bridges (known by their address) and empty cgroups; --stop removes both. The images stay in DIR/data.
set -euo pipefail
shopt -s nullglob

usage() {
    cat <<'USAGE'
usage: docker/engine.sh --start     start the engine; returns when it answers
       docker/engine.sh --stop      end it with all its containers; images and volumes stay in its directory
       docker/engine.sh --status    whether it answers
       eval "$(docker/engine.sh --env)"     lets docker, docker-compose and launch_workers.sh use it

environment:
  ORION_ENGINE_DIR   its data, socket and log                    (target/docker/engine)
  ORION_ENGINE_NET   first two bytes of the /16 of its networks  (10.121)
USAGE
}
die() {
    echo "docker/engine.sh: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=${ORION_ENGINE_DIR:-$here/../target/docker/engine}
NET=${ORION_ENGINE_NET:-10.121}
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin LC_ALL=C # Debian's docker first

environment() {
    echo "export DOCKER_HOST=unix://$RUN/socket DOCKER_CONFIG=$DIR/config DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1"
}
answers() { docker --host "unix://$RUN/socket" --config "$DIR/config" version >/dev/null 2>&1; }
alive() { # PID: neither gone nor a zombie
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null && [[ ${stat##*) } != [ZX]* ]]
}
outer() { # the process that holds the namespaces, if it is still that one
    local pid
    { read -r pid <"$DIR/pid"; } 2>/dev/null && alive "$pid" && grep -qaF "$RUN/socket" "/proc/$pid/cmdline" && echo "$pid"
}

start() {
    local tries pair missing=''
    for pair in dockerd:docker.io docker:docker.io containerd:containerd runc:runc unshare:util-linux ip:iproute2 iptables:iptables; do
        command -v "${pair%%:*}" >/dev/null || missing+=" ${pair##*:}"
    done
    [ -z "$missing" ] || die "missing Debian packages:$missing" "apt-get install --no-install-recommends$missing"
    mkdir -p "$DIR/config" "$RUN"
    echo '{}' >"$DIR/config/daemon.json" # the machine's own engine may have another opinion in /etc/docker
    ! outer >/dev/null || ! answers || return 0
    stop # what a crash has left
    mkdir -p "$RUN"
    [ -z "$(ip -4 route show "$NET.0.0/16")" ] || die "$NET.0.0/16 is in use on this machine" "set ORION_ENGINE_NET"
    # shellcheck disable=SC2016 # expanded in there
    setsid unshare --mount --pid --fork --mount-proc --kill-child=KILL /bin/sh -c '
        for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do # read-only inside of a container
            [ -w "$controller/." ] || mount -o remount,bind,rw "$controller" 2>/dev/null || true
        done
        "$@" &
        wait $!' engine dockerd \
        --data-root "$DIR/data" --exec-root "$RUN/exec" --pidfile "$RUN/pid" --host "unix://$RUN/socket" \
        --group "$(id -gn)" --cgroup-parent "$CGROUP" --bridge none --iptables=false --ip6tables=false \
        --ip-forward=false --ip-masq=false --default-address-pool "base=$NET.128.0/17,size=24" \
        --config-file "$DIR/config/daemon.json" --log-level warn </dev/null >"$DIR/log" 2>&1 &
    echo $! >"$DIR/pid"
    for ((tries = 0; tries < 600; tries++)); do
        answers && break
        alive "$(cat "$DIR/pid")" || break
        sleep 0.1
    done
    answers || {
        tail -n 20 "$DIR/log" >&2
        stop
        die "dockerd does not answer" "see $DIR/log"
    }
    # containers, networks and volumes of an engine that was killed
    local host=(docker --host "unix://$RUN/socket" --config "$DIR/config") left
    mapfile -t left < <("${host[@]}" ps --all --quiet)
    [ ${#left[@]} = 0 ] || "${host[@]}" rm --force --volumes "${left[@]}" >/dev/null
    "${host[@]}" network prune --force >/dev/null
    mapfile -t left < <("${host[@]}" volume ls --quiet)
    [ ${#left[@]} = 0 ] || "${host[@]}" volume rm --force "${left[@]}" >/dev/null
}
stop() {
    local pid tries bridge path remain
    if pid=$(outer); then
        kill -KILL "$pid"
        for ((tries = 0; tries < 1000; tries++)); do
            alive "$pid" || break
            sleep 0.01
        done
    fi
    rm -f "$DIR/pid"
    for bridge in /sys/class/net/*/bridge; do
        bridge=${bridge%/bridge} bridge=${bridge##*/}
        [ -z "$(ip -4 addr show dev "$bridge" to "$NET.0.0/16" 2>/dev/null)" ] || ip link del "$bridge"
    done
    for ((tries = 0; tries < 200; tries++)); do # the processes in them may need a moment to be gone
        remain=no
        for path in "/sys/fs/cgroup$CGROUP" /sys/fs/cgroup/*"$CGROUP"; do
            [ ! -d "$path" ] || find "$path" -depth -type d -exec rmdir {} + 2>/dev/null || remain=yes
        done
        [ $remain = yes ] || break
        sleep 0.05
    done
    rm -rf --one-file-system "$RUN"
}

case ${1:-} in
    -h | --help | '') usage && exit 0 ;;
    --start | --stop | --status | --env) [ $# = 1 ] || die "too many arguments" "docker/engine.sh --help" ;;
    *) die "unknown option '$1'" "docker/engine.sh --help" ;;
esac
[[ $NET =~ ^[0-9]{1,3}\.[0-9]{1,3}$ ]] || die "ORION_ENGINE_NET '$NET' must be two bytes like 10.121"
mkdir -p "$DIR" 2>/dev/null || die "$DIR cannot be made" "run as root, or set ORION_ENGINE_DIR"
DIR=$(cd "$DIR" && pwd -P)
RUN=/run/orion-engine-${NET/./-} # a socket's path is at most 108 characters long
CGROUP=/orion-engine-${NET/./-}
case $1 in
    --env) environment ;;
    --status) if answers; then echo "answers at $RUN/socket"; else die "it does not run" "docker/engine.sh --start"; fi ;;
    *) [ "$(id -u)" = 0 ] || die "must run as root" "sudo $0 $1" ;;&
    --start) start ;;
    --stop) stop ;;
esac
