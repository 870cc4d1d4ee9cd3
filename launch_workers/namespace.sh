#!/bin/bash
# The engine `namespace` of launch_workers.sh, which sources this file: each worker is a set of Linux namespaces
# with its own host name, address, accounts (an overlay of /), a real sshd and the orion-agent. No security
# boundary: root in a worker is root of the machine.
#
# A worker NAME is made of: DIR/NAME (logs, pid), DIR/NAME/disk (a tmpfs that holds the overlay's upper
# layer and outlives the processes), a network namespace NAME with a veth pair into the bridge, a cgroup
# orion-worker-NAME, and the processes, all below one PID 1 (launch_workers/boot.sh, then init.sh).
# shellcheck disable=SC2154 # here, DIR, PREFIX, BRIDGE, NET, WITH_AGENT are the caller's

SIZE=${NSW_SIZE:-512m}
CGROUPS=/sys/fs/cgroup # version 2, or the freezer's hierarchy of version 1
[ ! -d /sys/fs/cgroup/freezer ] || CGROUPS=/sys/fs/cgroup/freezer
CGROUPS=${ORION_WORKERS_CGROUPS:-$CGROUPS}
SYSTEMD_CGROUPS=(/sys/fs/cgroup/systemd /sys/fs/cgroup/unified) # in which the kind `systemd` has a cgroup of its own
# shellcheck source=/dev/null
. "$here/launch_workers/kinds.sh"

check_host() {
    local missing='' pair
    [ "$(id -u)" = 0 ] || die "must run as root" "sudo $0"
    for pair in ip:iproute2 /usr/sbin/sshd:openssh-server ssh-keygen:openssh-client unshare:util-linux \
        nsenter:util-linux pivot_root:util-linux flock:util-linux setsid:util-linux mount:mount awk:mawk; do
        command -v "${pair%%:*}" >/dev/null || missing+=" ${pair##*:}"
    done
    [ -z "$missing" ] || die "missing Debian packages:$missing" "apt-get install$missing"
    grep -qw overlay /proc/filesystems || modprobe -q overlay || die "the kernel has no overlay file system"
    [ -w "$CGROUPS/cgroup.procs" ] || die "$CGROUPS is not a writable cgroup hierarchy"
}

check_containers() {
    local missing='' pair
    [ "$WITH_CONTAINERS" = yes ] || return 0
    case $KIND in busybox | systemd) die "a worker of the kind $KIND has no engine" "--kind debian, hardened or foreign" ;; esac
    for pair in dockerd:docker.io docker:docker.io containerd:containerd runc:runc iptables:iptables; do
        command -v "${pair%%:*}" >/dev/null || missing+=" ${pair##*:}"
    done
    [ -z "$missing" ] || die "missing Debian packages:$missing" "apt-get install$missing"
}

# --- what belongs to a worker ------------------------------------------------------------------------

veth_of() { # NAME: the host's end of its cable
    local sum
    sum=$(cksum <<<"$1")
    echo "ow${sum%% *}"
}
cgroup_of() { echo "$CGROUPS/orion-worker-$1"; }
kind_of() { cat "$DIR/$1/kind" 2>/dev/null || echo debian; } # NAME
init_pid() { # NAME: its PID 1 as the host counts; fails when it does not run
    local pid
    { read -r pid <"$DIR/$1/pid"; } 2>/dev/null && [ "/proc/$pid/ns/net" -ef "/run/netns/$1" ] && echo "$pid"
}
alive() { # PID: neither gone nor a zombie
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null && [[ ${stat##*) } != [ZX]* ]]
}
processes_of() { # NAME: also those that were put into it from outside
    cat "$(cgroup_of "$1")/cgroup.procs" 2>/dev/null || true
    ip netns pids "$1" 2>/dev/null || true
}
names() { # every worker of this prefix of which anything is left, in order
    local path
    {
        for path in "$DIR/$PREFIX"* "/run/netns/$PREFIX"* "$CGROUPS/orion-worker-$PREFIX"*; do
            path=${path##*/}
            echo "${path#orion-worker-}"
        done
        cat /sys/class/net/*/ifalias 2>/dev/null | sed -n 's/^orion-worker \([^ ]*\) .*/\1/p'
    } | grep -Ex "${PREFIX}[0-9]+" | sort -uV || true
}
known() { # NAME: refuse a worker that does not exist
    if [[ ! ${1:-} =~ ^${PREFIX}[0-9]+$ ]] || [ ! -d "$DIR/$1" ]; then
        die "there is no worker '${1:-}'" "launch_workers.sh --status"
    fi
}
running() { init_pid "$1" >/dev/null || die "$1 does not run" "launch_workers.sh --start $1"; }

# One command at a time changes a set (lock on DIR), one script at a time changes links (lock on this file).
lock_set() {
    while :; do
        mkdir -p "$DIR"
        { exec 8<"$DIR"; } 2>/dev/null || continue
        flock 8
        [ ! /proc/self/fd/8 -ef "$DIR" ] || break # else a --stop removed it meanwhile
    done
    trap 'rmdir "$DIR" 2>/dev/null || true' EXIT # when nothing came to be in it, or nothing is left
}
lock_links() { exec 9<"$here/launch_workers.sh" && flock 9; }

# --- network -------------------------------------------------------------------------------------------

bridge_up() {
    if [ ! -d "/sys/class/net/$BRIDGE" ]; then
        ip link add "$BRIDGE" type bridge
        # a fixed address: otherwise it follows the ports, and the workers' ARP entries go stale
        ip link set "$BRIDGE" alias orion-workers address "$(cat "/sys/class/net/$BRIDGE/address")" up
    fi
    [ -n "$(ip -4 addr show dev "$BRIDGE" to "$NET.0.1/32")" ] || ip addr add "$NET.0.1/16" dev "$BRIDGE"
}
bridge_down() { # when it is ours and no port is left
    [ "$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null)" = orion-workers ] || return 0
    set -- "/sys/class/net/$BRIDGE/brif/"*
    [ $# != 0 ] || ip link del "$BRIDGE"
}
cable_up() { # NAME
    local name=$1 veth ip
    veth=$(veth_of "$name") ip=$(address_of "$name")
    [ ! -e "/run/netns/$name" ] || [ ! -d "/sys/class/net/$veth" ] || return 0
    [ -z "$(ip netns pids "$name" 2>/dev/null)" ] || die "processes run in the network namespace $name" "launch_workers.sh --stop"
    cable_down "$name"
    ! grep -qsE "^orion-worker .* $ip $BRIDGE\$" /sys/class/net/*/ifalias ||
        die "another set's worker has the address $ip on $BRIDGE" "set ORION_WORKERS_BRIDGE and ORION_WORKERS_NET"
    ip netns add "$name"
    ip link add "$veth" type veth peer name eth0 netns "$name"
    ip link set "$veth" alias "orion-worker $name $ip $BRIDGE" master "$BRIDGE" up
    ip -n "$name" -batch - <<BATCH
link set lo up
addr add $ip/16 dev eth0
link set eth0 up
route add default via $NET.0.1
BATCH
}
cable_down() { # NAME
    local veth
    veth=$(veth_of "$1")
    [ ! -d "/sys/class/net/$veth" ] || ip link del "$veth"
    [ ! -e "/run/netns/$1" ] || ip netns del "$1"
}

# --- disk ----------------------------------------------------------------------------------------------

mount_disk() { # NAME
    local disk=$DIR/$1/disk
    mkdir -p "$disk"
    mountpoint -q "$disk" || mount -t tmpfs -o "mode=755,size=$SIZE" orion-worker "$disk"
    [ -e "$disk/formatted" ] || format_disk "$1"
}
mount_images() { # NAME: where its engine keeps images and containers; outlives the processes, too
    local images=$DIR/$1/images
    [ -e "$DIR/$1/engine" ] || return 0
    mkdir -p "$images"
    mountpoint -q "$images" || mount -t tmpfs -o "mode=711,size=${NSW_IMAGES_SIZE:-1500m}" orion-worker "$images"
}
# What differs from the host's /: nothing of its users, its keys, its logs, its containers, its Orion and the checkout
# that this file is in. A character device 0:0 is overlayfs's "not there"; boot.sh makes new directories where they
# are needed.
format_disk() { # NAME
    local name=$1 disk=$DIR/$1/disk path
    local upper=$disk/upper
    rm -rf "${disk:?}"/*
    if [ "$(kind_of "$name")" = busybox ]; then # boot.sh fills it
        mkdir -p "$upper" "$disk"/{work,merged}
        return 0
    fi
    mkdir -p "$upper"/{etc/{ssl,systemd},var/{lib,spool}} "$disk"/{work,merged}
    for path in home srv etc/{ssh,orion,ssl/private,systemd/system} etc/{passwd,shadow,group,gshadow}- \
        .dockerenv var/{backups,log,mail,tmp,spool/cron} var/lib/{mysql,docker,containers,containerd} /var/lib/orion*; do
        mknod "$upper/${path#/}" c 0 0
    done
    hide_checkout "$upper"
    # no regular accounts (and no password) of the host
    awk -F: '$3 < 1000 || $3 == 65534' /etc/passwd >"$upper/etc/passwd"
    awk -F: '($3 < 1000 || $3 == 65534) && $1 != "orion-lease"' /etc/group >"$upper/etc/group"
    install -m 640 -g shadow /dev/null "$upper/etc/shadow"
    install -m 640 -g shadow /dev/null "$upper/etc/gshadow"
    awk -F: -v OFS=: 'NR == FNR { keep[$1]; next } $1 in keep { $2 = "*"; print }' "$upper/etc/passwd" /etc/shadow >"$upper/etc/shadow"
    awk -F: -v OFS=: 'NR == FNR { keep[$1]; next } $1 in keep { $2 = "*"; print }' "$upper/etc/group" /etc/gshadow >"$upper/etc/gshadow"
    touch "$upper/etc/subuid" "$upper/etc/subgid"
    echo "$name" >"$upper/etc/hostname"
    printf '127.0.0.1 localhost\n%s %s\n' "$(address_of "$name")" "$name" >"$upper/etc/hosts"
    tr -d - </proc/sys/kernel/random/uuid >"$upper/etc/machine-id"
}
# Images and containers that the tests made lie in the checkout, with files of any uid.
hide_checkout() { # UPPER
    local part path=''
    local -a parts
    IFS=/ read -ra parts <<<"${here#/}"
    for part in "${parts[@]}"; do
        path+=/$part
        if [ "$path" = "$here" ]; then
            mknod "$1$path" c 0 0
        elif [ -c "$1$path" ]; then # hidden with what is above it
            return 0
        elif [ ! -d "$1$path" ]; then
            mkdir "$1$path"
            chmod --reference "$path" "$1$path"
            chown --reference "$path" "$1$path"
        fi
    done
}
choose_agent() { # sets AGENT to the binary, or to nothing
    local file
    AGENT=''
    [ "$WITH_AGENT" = yes ] || return 0
    for file in ${ORION_AGENT:+"$ORION_AGENT"} "$here/target/release/orion-agent" "$here/target/debug/orion-agent"; do
        if [ -f "$file" ] && [ -x "$file" ]; then
            AGENT=$(realpath "$file")
            return 0
        fi
        [ "$file" != "${ORION_AGENT:-}" ] || die "ORION_AGENT: '$file' is no program"
    done
}

busybox_root() { # DIR/busybox-root, whole or not at all
    local busybox=${ORION_BUSYBOX:-$here/target/tmp/orion-busybox/busybox}
    [ ! -d "$DIR/busybox-root" ] || return 0
    [ -x "$busybox" ] || {
        echo "building BusyBox, once: $busybox" >&2
        sh "$here/launch_workers/busybox.sh" "$busybox" >&2 || die "BusyBox cannot be built" "see launch_workers/busybox.sh"
    }
    rm -rf "$DIR/busybox-root.new"
    make_busybox_root "$DIR/busybox-root.new" "$busybox"
    mv "$DIR/busybox-root.new" "$DIR/busybox-root"
}

# --- boot ----------------------------------------------------------------------------------------------

boot() { # NAME; returns when its sshd listens
    local name=$1 dir=$DIR/$1 up outer clock=() own=() enter=() tries
    WORKER_NAME=$name WORKER_DIR=$dir WORKER_ADDRESS=$(address_of "$name") WORKER_GATEWAY=$NET.0.1
    WORKER_CGROUP=$(cgroup_of "$name") WORKER_SCRIPTS=$here/launch_workers
    WORKER_KIND=$(kind_of "$name") WORKER_LOWER=/
    [ "$WORKER_KIND" != busybox ] || WORKER_LOWER=$DIR/busybox-root
    export WORKER_NAME WORKER_DIR WORKER_ADDRESS WORKER_GATEWAY WORKER_CGROUP WORKER_SCRIPTS AGENT JOIN_TOKEN \
        WORKER_KIND WORKER_LOWER
    if [ "$WORKER_KIND" = systemd ]; then # its cgroups are below one of its own, and it sees no other
        own=(--cgroup)
        # shellcheck disable=SC2016 # for the inner shell
        enter=(sh -euc 'for d in $0; do [ ! -d "$d" ] || { mkdir -p "$d/$WORKER"; echo 0 >"$d/$WORKER/cgroup.procs"; }; done
            unset WORKER; exec "$@"' "${SYSTEMD_CGROUPS[*]}")
        export WORKER=orion-worker-$name
    fi
    if [ -e /proc/self/ns/time ]; then # the worker's up-time begins now
        read -r up _ </proc/uptime
        clock=(--time --boottime "-${up%.*}")
    fi
    setsid nsenter --net="/run/netns/$name" \
        "${enter[@]}" unshare --mount --pid --uts --ipc "${own[@]}" "${clock[@]}" --fork --kill-child=KILL bash "$here/launch_workers/boot.sh" \
        </dev/null >"$dir/boot.log" 2>&1 8<&- 9<&- &
    outer=$!
    echo "$outer" >"$dir/outer"
    for ((tries = 0; tries < 2000; tries++)); do
        if up=$(init_pid "$name") && [ -e "/proc/$up/root/run/orion-worker-init" ] && [ -s "/proc/$up/root/run/sshd.pid" ]; then
            return 0
        fi
        alive "$outer" || break
        sleep 0.01
    done
    tail -n 20 "$dir/boot.log" "$dir/sshd.log" >&2 || true
    echo "launch_workers.sh: $name did not boot, see $dir" >&2
    return 1
}

start_workers() { # NAME...: those that do not run yet; one after another up to the network, then side by side
    local name starting=() boots=() failed=0
    choose_agent
    JOIN_TOKEN=${ORION_JOIN_TOKEN:-}
    [ -z "${ORION_JOIN_TOKEN_FILE:-}" ] || JOIN_TOKEN=$(cat "$ORION_JOIN_TOKEN_FILE")
    unset ORION_JOIN_TOKEN
    for name in "$@"; do
        [ "$WITH_AGENT" = no ] || [ -n "$AGENT" ] || [ -x "$DIR/$name/disk/upper/usr/local/bin/orion-agent" ] ||
            [ -e "$DIR/$name/no-agent" ] || die "there is no orion-agent" "cargo build --release -p orion-agent, or --no-agent"
    done
    check_kind "$KIND"
    check_containers
    [ "$KIND" != busybox ] || busybox_root
    lock_links
    bridge_up
    for name in "$@"; do
        init_pid "$name" >/dev/null && continue
        kill_worker "$name" # what a crash has left
        if [ ! -d "$DIR/$name" ]; then # what is there keeps its kind
            mkdir -p "$DIR/$name"
            echo "$KIND" >"$DIR/$name/kind"
            [ "$WITH_CONTAINERS" = no ] || echo "${ORION_WORKERS_REGISTRY:-$NET.0.1:5000}" >"$DIR/$name/engine"
        fi
        mkdir -p "$(cgroup_of "$name")"
        [ -z "${ORION_AGENT:-}" ] || rm -f "$DIR/$name/no-agent"
        [ "$WITH_AGENT" = yes ] || touch "$DIR/$name/no-agent"
        cable_up "$name"
        mount_disk "$name"
        mount_images "$name"
        starting+=("$name")
    done
    exec 9<&-
    for name in "${starting[@]}"; do
        (
            [ ! -e "$DIR/$name/no-agent" ] || AGENT=''
            boot "$name"
        ) &
        boots+=($!)
    done
    for name in "${boots[@]}"; do wait "$name" || failed=1; done
    return "$failed"
}

# --- faults, and the end --------------------------------------------------------------------------------

freeze() { # NAME yes|no; returns when every process stands still, or may go on
    local cgroup=$CGROUPS/orion-worker-$1
    if [ -e "$cgroup/freezer.state" ]; then
        if [ "$2" = yes ]; then set -- FROZEN; else set -- THAWED; fi
        echo "$1" >"$cgroup/freezer.state"
        until grep -q "$1" "$cgroup/freezer.state"; do sleep 0.002; done
    else
        if [ "$2" = yes ]; then set -- 1; else set -- 0; fi
        echo "$1" >"$cgroup/cgroup.freeze"
        until grep -q "^frozen $1" "$cgroup/cgroup.events"; do sleep 0.002; done
    fi
}
kill_workers() { # NAME...: at the same moment, as when a rack loses its power
    local name init
    for name; do ! init=$(init_pid "$name") || kill -KILL "$init" 2>/dev/null || true; done
    for name; do kill_worker "$name"; done
}
kill_worker() { # NAME: no process is left, not even frozen ones
    local name=$1 init outer='' pids tries
    [ ! -d "$(cgroup_of "$name")" ] || freeze "$name" no
    ! init=$(init_pid "$name") || kill -KILL "$init" 2>/dev/null || true
    ! read -r outer 2>/dev/null <"$DIR/$name/outer" || true
    if [ -n "$init" ] && [ -n "$outer" ]; then # it ends by itself when PID 1 and all below are gone
        for ((tries = 0; tries < 1000; tries++)); do
            alive "$outer" || break
            sleep 0.005
        done
    fi
    for ((tries = 0; tries < 1000; tries++)); do
        pids=$(processes_of "$name")
        [ -n "$pids" ] || break
        xargs -r kill -KILL <<<"$pids" 2>/dev/null || true
        sleep 0.005
    done
    [ -z "$pids" ] || die "processes of $name do not end: $pids"
    rm -f "$DIR/$name/pid" "$DIR/$name/outer"
}
remove_worker() { # NAME: its processes are gone already
    local name=$1 cgroup disk tries
    cgroup=$(cgroup_of "$name")
    cable_down "$name"
    for disk in "$DIR/$name/images" "$DIR/$name/disk"; do
        while mountpoint -q "$disk" 2>/dev/null; do umount "$disk" 2>/dev/null || umount -l "$disk"; done
    done
    # The engine's containers have cgroups in every hierarchy.
    for cgroup in "$cgroup" "${SYSTEMD_CGROUPS[@]/%//orion-worker-$name}" /sys/fs/cgroup/*/"orion-worker-$name" /sys/fs/cgroup/"orion-worker-$name-docker"; do
        for ((tries = 0; tries < 200; tries++)); do
            [ -d "$cgroup" ] || break
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.01
        done
    done
    rm -rf --one-file-system "${DIR:?}/$name"
}
stop_all() {
    local all name kills=() failed=''
    [ ! -d "$DIR" ] || lock_set
    mapfile -t all < <(names)
    for name in "${all[@]}"; do kill_worker "$name" & kills+=($!); done
    for name in "${kills[@]}"; do wait "$name" || failed=1; done
    [ -z "$failed" ] || exit 1
    lock_links
    for name in "${all[@]}"; do remove_worker "$name"; done
    set -- "$DIR"/*/disk # another set's workers may stand on it
    [ $# != 0 ] || rm -rf "${DIR:?}/busybox-root" "${DIR:?}/busybox-root.new"
    bridge_down
}
resize() { # NAME full|normal: tmpfs is full when its limit is what it uses
    local disk=$DIR/$1/disk size=$SIZE tries
    for ((tries = 0; tries < 50; tries++)); do
        [ "$2" = normal ] || size=$(df --block-size=1 --output=used "$disk" | tail -n 1 | tr -d ' ')
        ! mount -o "remount,size=$size" "$disk" 2>/dev/null || return 0 # else it grew in between
    done
    die "the size of $disk cannot be changed to $size"
}
status() {
    local name pid state
    while read -r name; do
        state=stopped
        if pid=$(init_pid "$name"); then
            state=running
            grep -qsE 'FROZEN|^1$' "$(cgroup_of "$name")"/{freezer.state,cgroup.freeze} && state=frozen
            ! grep -qE '^[^ ]+ / overlay ro,' "/proc/$pid/mounts" || state+=,readonly
        fi
        grep -qs '^up\|^unknown' "/sys/class/net/$(veth_of "$name")/operstate" || state+=,cut
        df --block-size=1 --output=avail "$DIR/$name/disk" 2>/dev/null | grep -q '[1-9]' || state+=,full
        printf '%-12s %-15s %s\n' "$name" "$(address_of "$name")" "$state"
    done < <(names)
}

unplug() { ip link set "$(veth_of "$1")" down; }
plug() { ip link set "$(veth_of "$1")" up; }
remount() { # NAME ro|rw
    nsenter --target "$(init_pid "$1")" --mount mount -o "remount,bind,$2" / ||
        die "$1: / cannot become $2" "a process in it has a file open for writing"
}
inside() { # NAME COMMAND...
    local name=$1 pid
    shift
    pid=$(init_pid "$name")
    echo $$ >"$(cgroup_of "$name")/cgroup.procs" # so that --freeze and --kill mean it too
    exec nsenter --target "$pid" --all -- env -i HOME=/root PATH="$PATH" TERM="${TERM:-dumb}" "$@"
}
