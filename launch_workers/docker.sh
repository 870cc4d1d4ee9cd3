#!/bin/bash
# The engine `docker` of launch_workers.sh, which sources this file: each worker is a container of
# docker/worker.Dockerfile, with limits, on a bridge of their own whose host end is NET.0.1.
# shellcheck disable=SC2154 # here, PREFIX, BRIDGE, NET, WITH_AGENT are the caller's

IMAGE=${ORION_WORKER_IMAGE:-orion/worker}
LABEL=orion.workers=$PREFIX
# What logins and accounts need, found by leaving out one after another:
#   SETUID, SETGID, SYS_CHROOT   sshd's own separation of privileges, and becoming the tenant
#   AUDIT_WRITE                  sshd ends a login with a terminal that it cannot record
#   CHOWN, DAC_OVERRIDE, FOWNER  homes and terminals for the tenant; removing what the tenant has locked away
#   KILL                         ending the tenant's processes at the deadline
CAPABILITIES=(AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID SYS_CHROOT)

check_host() {
    [ "$KIND" = debian ] || die "a container is of no other kind" "--engine namespace, or ORION_WORKER_IMAGE=orion/worker-alpine"
    docker_answers || die "no Docker engine answers" "start it, set DOCKER_HOST, or --engine namespace"
}
lock_set() { :; } # the engine does one thing with a name at a time
names() { docker ps --all --filter "label=$LABEL" --format '{{.Names}}' | grep -Ex "${PREFIX}[0-9]+" | sort -V || true; }
state_of() { docker inspect --format '{{.State.Status}}' "$1" 2>/dev/null || true; }
known() { # NAME: refuse a worker that does not exist
    names | grep -qFx -- "${1:-}" || die "there is no worker '${1:-}'" "launch_workers.sh --status"
}
running() { [[ $(state_of "$1") =~ ^(running|paused)$ ]] || die "$1 does not run" "launch_workers.sh --start $1"; }

network_up() {
    docker network inspect "$BRIDGE" >/dev/null 2>&1 ||
        docker network create --label "$LABEL" --subnet "$NET.0.0/16" --gateway "$NET.0.1" \
            --opt "com.docker.network.bridge.name=$BRIDGE" "$BRIDGE" >/dev/null ||
        die "the network $BRIDGE cannot be made" "set ORION_WORKERS_BRIDGE and ORION_WORKERS_NET"
}
compile() { # NAME HINT: the image by docker/NAME.Dockerfile
    echo "making the image $IMAGE" >&2
    DOCKER_BUILDKIT=1 docker build --file "$here/docker/$1.Dockerfile" --tag "$IMAGE" "$here" >&2 ||
        die "$IMAGE cannot be made" "$2"
}
# The image: of ORION_AGENT if that is given, else the one that is there, else (Orion's own only) of a binary that is
# there, else by compiling in Docker, which takes minutes.
choose_image() {
    local agent='' file scratch
    if [ -n "${ORION_AGENT:-}" ]; then
        [ -f "$ORION_AGENT" ] || die "ORION_AGENT: '$ORION_AGENT' is no program"
        agent=$ORION_AGENT
        IMAGE=orion/worker:agent-$(sha256sum "$agent" | head -c 12)
    fi
    ! docker image inspect "$IMAGE" >/dev/null 2>&1 || return 0
    if [ -z "$agent" ]; then
        case $IMAGE in
            orion/worker) ;;
            orion/worker-alpine)
                compile worker-alpine "docker/build-images.sh DIR worker-alpine, with orion-agent-static in DIR"
                return 0
                ;;
            *) die "there is no image $IMAGE" "build or pull it first, or leave ORION_WORKER_IMAGE away" ;;
        esac
    fi
    for file in "$here/target/release/orion-agent" "$here/target/debug/orion-agent"; do
        [ -n "$agent" ] || [ ! -x "$file" ] || agent=$file
    done
    if [ -n "$agent" ]; then
        echo "making the image $IMAGE" >&2
        scratch=$(mktemp -d)
        cp "$agent" "$scratch/orion-agent"
        ORION_IMAGE_TAG=$IMAGE "$here/docker/build-images.sh" "$scratch" worker || {
            rm -rf "$scratch"
            die "$IMAGE cannot be made" "docker/base-images.sh where nothing can be pulled; or --engine namespace"
        }
        rm -rf "$scratch"
    else
        compile worker "docker/base-images.sh where nothing can be pulled; or --engine namespace"
    fi
}
create() { # NAME
    local name=$1 arguments=() scratch setting MY_HOST_IP
    MY_HOST_IP=$(address_of "$name")
    : "${API_ENDPOINT:=http://$NET.0.1:8080}" "${MY_HOST_PORT:=22}"
    [[ $API_ENDPOINT != http://* ]] || arguments+=(--env ORION_INSECURE_HTTP=1)
    for setting in API_ENDPOINT MY_HOST_IP MY_HOST_PORT ORION_WORKER_TAGS ORION_REFUSED_RETRY_S RUST_LOG; do
        [ -z "${!setting:-}" ] || arguments+=(--env "$setting=${!setting}")
    done
    [ -z "${ORION_API_CA:-}" ] || arguments+=(--env ORION_API_CA=/etc/orion/api-ca.crt)
    for setting in "${CAPABILITIES[@]}"; do arguments+=(--cap-add "$setting"); done
    [ "$WITH_AGENT" = yes ] || arguments+=(--entrypoint /bin/sh)
    arguments+=("$IMAGE")
    [ "$WITH_AGENT" = yes ] || arguments+=(-c 'mkdir -p /run/sshd && ssh-keygen -A >/dev/null && exec /usr/sbin/sshd -D -e')
    # Through a file and not a variable: `docker inspect` shows those to everyone who may ask the engine.
    docker create --name "$name" --hostname "$name" --label "$LABEL" --network "$BRIDGE" --ip "$MY_HOST_IP" \
        --cap-drop ALL --security-opt no-new-privileges --tmpfs /run --tmpfs /tmp:exec,mode=1777 \
        --env ORION_JOIN_TOKEN_FILE=/etc/orion/join-token --memory "${ORION_WORKER_MEMORY:-1g}" \
        --memory-swap "${ORION_WORKER_MEMORY:-1g}" --cpus "${ORION_WORKER_CPUS:-1.0}" --pids-limit 512 \
        "${arguments[@]}" >/dev/null
    scratch=$(mktemp -d)
    mkdir -m 700 "$scratch/orion"
    (umask 077 && printf '%s\n' "$JOIN_TOKEN" >"$scratch/orion/join-token")
    [ -z "${ORION_API_CA:-}" ] || install -m 644 "$ORION_API_CA" "$scratch/orion/api-ca.crt"
    tar -C "$scratch" --owner=0 --group=0 --numeric-owner -cf - orion | docker cp - "$name:/etc"
    rm -rf "$scratch"
}
start_workers() { # NAME...: those that do not run yet
    local name tries made=()
    JOIN_TOKEN=${ORION_JOIN_TOKEN:-}
    [ -z "${ORION_JOIN_TOKEN_FILE:-}" ] || JOIN_TOKEN=$(cat "$ORION_JOIN_TOKEN_FILE")
    unset ORION_JOIN_TOKEN
    network_up
    for name in "$@"; do
        if [ -z "$(state_of "$name")" ]; then
            [ ${#made[@]} != 0 ] || choose_image
            [ -n "$JOIN_TOKEN" ] || [ "$WITH_AGENT" = no ] ||
                die "there is no join token" "set ORION_JOIN_TOKEN (orion token create makes one), or --no-agent"
            create "$name"
            made+=("$name")
        fi
        [[ $(state_of "$name") =~ ^(running|paused)$ ]] || docker start "$name" >/dev/null
    done
    for name in "$@"; do
        for ((tries = 0; tries < 600; tries++)); do
            [ "$(state_of "$name")" = running ] || break
            ! docker exec "$name" test -s /run/sshd.pid 2>/dev/null || break
            sleep 0.05
        done
        [[ $(state_of "$name") =~ ^(running|paused)$ ]] || {
            docker logs --tail 20 "$name" >&2
            die "$name did not boot"
        }
    done
}

freeze() { # NAME yes|no
    local state
    state=$(state_of "$1")
    case $2:$state in
        yes:running) docker pause "$1" >/dev/null ;;
        no:paused) docker unpause "$1" >/dev/null ;;
    esac
}
kill_workers() { # NAME...
    local name
    for name; do
        freeze "$name" no
        [ "$(state_of "$name")" != running ] || docker kill "$name" >/dev/null
    done
}
unplug() { docker network disconnect --force "$BRIDGE" "$1"; }
plug() { docker network connect --ip "$(address_of "$1")" "$BRIDGE" "$1"; }
resize() { die "one container's disk cannot be filled" "--engine namespace has --fill-disk"; }
remount() { die "a container cannot be made read-only while it runs" "--engine namespace has --readonly"; }
inside() { # NAME COMMAND...
    local name=$1 terminal=()
    shift
    [ ! -t 0 ] || terminal=(--tty)
    exec docker exec --interactive "${terminal[@]}" "$name" "$@"
}
stop_all() {
    local all
    mapfile -t all < <(names)
    [ ${#all[@]} = 0 ] || docker rm --force --volumes "${all[@]}" >/dev/null
    # another set's workers may still be on it
    [ -z "$(docker network ls --quiet --filter "label=$LABEL" --filter "name=^$BRIDGE\$")" ] ||
        docker network rm "$BRIDGE" >/dev/null 2>&1 || true
}
status() {
    local name state
    while read -r name; do
        case $(state_of "$name") in
            running) state=running ;;
            paused) state=frozen ;;
            *) state=stopped ;;
        esac
        [ -n "$(docker inspect --format "{{with index .NetworkSettings.Networks \"$BRIDGE\"}}on{{end}}" "$name")" ] || state+=,cut
        printf '%-12s %-15s %s\n' "$name" "$(address_of "$name")" "$state"
    done < <(names)
}
