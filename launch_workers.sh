#!/bin/bash
# Orion workers on one machine, each with a real sshd, accounts of its own and the orion-agent: as Docker
# containers, or as sets of Linux namespaces where there is no Docker. For trying things out and for tests.
# The two engines are launch_workers/docker.sh and launch_workers/namespace.sh.
set -euo pipefail
shopt -s nullglob
umask 022

usage() {
    cat <<'USAGE'
usage: launch_workers.sh [--engine docker|namespace] [--kind KIND] [--no-agent] [--containers] [N]
                                            make worker1..workerN run (default 3); what runs already stays
       launch_workers.sh --stop             remove every worker of this prefix, and the bridge if unused
       launch_workers.sh --status           one line per worker: name, address, state
       launch_workers.sh --kill NAME...     SIGKILL every process; disk and address stay (connections are refused)
       launch_workers.sh --start NAME       boot it again: same disk and host keys, empty /run and /tmp
       launch_workers.sh --freeze NAME      stop all its processes in place       --thaw NAME     the reverse
       launch_workers.sh --cut NAME         pull the network cable                --uncut NAME    the reverse
       launch_workers.sh --fill-disk NAME   no byte is left on its disk           --empty-disk NAME   (namespace)
       launch_workers.sh --readonly NAME    / becomes read-only                   --readwrite NAME    (namespace)
       launch_workers.sh --sh NAME [CMD...] run a command (default: a shell) as root inside

Without --engine: docker where a Docker engine answers, else namespace (which needs root). Workers that are there
as namespaces already stay namespaces. KIND is debian (the default), hardened, busybox, systemd or foreign
(launch_workers/kinds.sh; namespace): of the workers that are made now, so `--kind hardened 1`, then
`--kind busybox 2` make one of each. Containers have limits and few capabilities; namespaces are no security
boundary: root in such a worker is root of the machine. --containers gives the workers that are made now a Docker engine
each (namespace; not of the kinds busybox and systemd).

environment:
  ORION_WORKERS_ENGINE  as --engine
  ORION_WORKERS_KIND    as --kind
  ORION_WORKERS_PREFIX  names are PREFIX1, PREFIX2…  (worker; must not end in a digit)
  ORION_WORKERS_BRIDGE  the bridge                   (orion0)
  ORION_WORKERS_NET     first two bytes of its /16   (10.77: the host is 10.77.0.1, workers from 10.77.0.11)
  ORION_AGENT           the agent's binary           (target/release/orion-agent or target/debug/orion-agent)
  API_ENDPOINT          the control plane            (http://10.77.0.1:8080)
  ORION_API_CA          certificates (PEM) that may vouch for it; becomes /etc/orion/api-ca.crt in the worker
  ORION_JOIN_TOKEN or ORION_JOIN_TOKEN_FILE          becomes /etc/orion/join-token (0600) in the worker
  ORION_WORKER_TAGS, RUST_LOG, …                     passed to the agent (namespace: ORION_CONTAINERS_LISTEN, too)
 namespace:
  ORION_WORKERS_DIR     where logs and disks live    (/var/tmp/orion-workers; the agent's log is DIR/NAME/agent.log)
  ORION_WORKERS_CGROUPS the cgroup hierarchy to use  (version 1's freezer if there is one, else version 2)
  ORION_BUSYBOX         a static BusyBox for --kind busybox (target/tmp/orion-busybox/busybox, built if it is not there)
  NSW_SIZE              size of one worker's disk    (512m, in memory, used as it fills)
  NSW_IMAGES_SIZE       size of its engine's disk    (1500m, likewise)
  ORION_WORKERS_REGISTRY  registry that its engine may ask without TLS   (10.77.0.1:5000)
 docker:
  ORION_WORKER_IMAGE    the image                    (orion/worker; it and orion/worker-alpine are made if not there)
  ORION_WORKER_MEMORY, ORION_WORKER_CPUS             limits of each (1g, 1.0)
USAGE
}

die() {
    echo "launch_workers.sh: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=${ORION_WORKERS_DIR:-/var/tmp/orion-workers}
PREFIX=${ORION_WORKERS_PREFIX:-worker}
BRIDGE=${ORION_WORKERS_BRIDGE:-orion0}
NET=${ORION_WORKERS_NET:-10.77}
ENGINE=${ORION_WORKERS_ENGINE:-}
# shellcheck disable=SC2034 # the engines use it
KIND=${ORION_WORKERS_KIND:-debian}
WITH_AGENT=yes
WITH_CONTAINERS=no
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

address_of() { # NAME
    local at=$((${1#"$PREFIX"} + 10))
    echo "$NET.$((at / 256)).$((at % 256))"
}
docker_answers() { command -v docker >/dev/null && timeout 5 docker version >/dev/null 2>&1; }
choose_engine() {
    local there=("$DIR/$PREFIX"[0-9]*)
    case $ENGINE in
        docker | namespace) ;;
        '')
            ENGINE=namespace
            [ ${#there[@]} != 0 ] || ! docker_answers || ENGINE=docker
            ;;
        *) die "there is no engine '$ENGINE'" "--engine docker, or --engine namespace" ;;
    esac
}

while :; do
    case ${1:-} in
        --no-agent)
            # shellcheck disable=SC2034 # the engines use it
            WITH_AGENT=no
            shift
            ;;
        --containers)
            # shellcheck disable=SC2034
            WITH_CONTAINERS=yes
            shift
            ;;
        --engine)
            [ $# -ge 2 ] || die "--engine needs a name" "--engine docker, or --engine namespace"
            ENGINE=$2
            shift 2
            ;;
        --kind)
            [ $# -ge 2 ] || die "--kind needs a name" "launch_workers.sh --help"
            # shellcheck disable=SC2034
            KIND=$2
            shift 2
            ;;
        *) break ;;
    esac
done
command=${1:-3}
name=${2:-}
case $command in
    -h | --help) usage && exit 0 ;;
    --stop | --status | [0-9]*) [ $# -le 1 ] || die "too many arguments" "launch_workers.sh --help" ;;
    --sh) ;;
    --kill) [ $# -ge 2 ] || die "--kill needs the NAMEs of workers" "launch_workers.sh --help" ;;
    --*) [ $# = 2 ] || die "$command needs the NAME of one worker" "launch_workers.sh --help" ;;
esac
[[ $PREFIX =~ ^[a-z]([a-z0-9-]*[a-z-])?$ ]] || die "ORION_WORKERS_PREFIX '$PREFIX' must match [a-z][a-z0-9-]* and not end in a digit"
[[ $NET =~ ^[0-9]{1,3}\.[0-9]{1,3}$ ]] || die "ORION_WORKERS_NET '$NET' must be two bytes like 10.77"
[[ $BRIDGE =~ ^[a-z][a-z0-9.-]{0,14}$ ]] || die "ORION_WORKERS_BRIDGE '$BRIDGE' is no interface name (15 characters at most)"
[[ $DIR = /* ]] || die "ORION_WORKERS_DIR must be an absolute path"
choose_engine
# shellcheck source=/dev/null
. "$here/launch_workers/$ENGINE.sh"
check_host
case $command in
    --stop) stop_all ;;
    --status) status ;;
    [0-9]*)
        [[ $command =~ ^(0|[1-9][0-9]{0,2})$ ]] || die "N must be 0 (only the bridge) to 999"
        lock_set
        mapfile -t wanted < <(seq -f "$PREFIX%.0f" "$command")
        start_workers "${wanted[@]}"
        status
        ;;
    --start) lock_set && known "$name" && start_workers "$name" ;;
    --kill)
        shift
        lock_set
        for name; do known "$name"; done
        kill_workers "$@"
        ;;
    --freeze) known "$name" && running "$name" && freeze "$name" yes ;;
    --thaw) known "$name" && running "$name" && freeze "$name" no ;;
    --cut) known "$name" && unplug "$name" ;;
    --uncut) known "$name" && plug "$name" ;;
    --fill-disk) known "$name" && resize "$name" full ;;
    --empty-disk) known "$name" && resize "$name" normal ;;
    --readonly) known "$name" && running "$name" && remount "$name" ro ;;
    --readwrite) known "$name" && running "$name" && remount "$name" rw ;;
    --sh)
        known "$name" && running "$name"
        shift 2
        [ $# != 0 ] || set -- /bin/bash -l
        inside "$name" "$@"
        ;;
    *) die "unknown option '$command'" "launch_workers.sh --help" ;;
esac
