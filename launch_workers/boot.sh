#!/bin/bash
# The first process of a worker, started by launch_workers.sh: already in its own namespaces, still seeing
# the host's files. Makes the worker's tree out of an overlay of /, moves into it and becomes init.sh.
# In: WORKER_NAME, WORKER_DIR, WORKER_ADDRESS, WORKER_GATEWAY, WORKER_CGROUP, WORKER_SCRIPTS, AGENT (the
# binary to install, may be empty), JOIN_TOKEN (may be empty), WORKER_KIND and WORKER_LOWER (the overlay's lower
# layer), and the agent's own settings.
set -euo pipefail
umask 022
# shellcheck source=/dev/null
. "$WORKER_SCRIPTS/kinds.sh"

fill_first_boot() { # in the worker's tree: own, empty directories, own host key, own sshd configuration
    local path
    mkdir home srv etc/ssh var/log var/spool/cron var/backups
    mkdir -m 1777 var/tmp
    mkdir -m 700 etc/orion
    install -d -m 2775 -g mail var/mail
    for path in crontabs atjobs atspool; do
        [ ! -d "/var/spool/cron/$path" ] || {
            mkdir "var/spool/cron/$path"
            chown --reference="/var/spool/cron/$path" "var/spool/cron/$path"
            chmod --reference="/var/spool/cron/$path" "var/spool/cron/$path"
        }
    done
    for path in wtmp btmp lastlog; do install -m 660 -g utmp /dev/null "var/log/$path"; done
    mkdir etc/ssh/sshd_config.d
    cp /etc/ssh/ssh_config etc/ssh/
    cat >etc/ssh/sshd_config <<'CONFIG'
# A worker's sshd (launch_workers.sh). The agent adds sshd_config.d/00-orion.conf.
Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM yes
PrintMotd no
MaxStartups 100:30:200
Subsystem sftp internal-sftp
CONFIG
}

# In the worker's tree, at every boot: the binary, its settings, the join token. What this boot was not
# told stays as it was, and a disk that is full is no reason not to boot.
install_agent() {
    local bin=usr/local/bin/orion-agent
    mkdir -p usr/local/bin etc/orion || true
    if [ -n "$AGENT" ] && ! cmp -s "$AGENT" "$bin"; then replace 755 "$bin" <"$AGENT"; fi
    if [ -n "$JOIN_TOKEN" ]; then replace 600 etc/orion/join-token <<<"$JOIN_TOKEN"; fi
    if [ -n "${ORION_API_CA:-}" ]; then replace 644 etc/orion/api-ca.crt <"$ORION_API_CA"; fi
    if [ -n "${API_ENDPOINT:-}" ] || [ ! -e etc/orion/agent.env ]; then
        agent_settings | replace 600 etc/orion/agent.env
    fi
}
agent_settings() {
    local setting ORION_INSECURE_HTTP='' MY_HOST_IP=$WORKER_ADDRESS ORION_API_CA=${ORION_API_CA:+/etc/orion/api-ca.crt}
    : "${API_ENDPOINT:=http://$WORKER_GATEWAY:8080}" "${MY_HOST_PORT:=22}"
    [[ $API_ENDPOINT != http://* ]] || ORION_INSECURE_HTTP=1
    export ORION_INSECURE_HTTP MY_HOST_IP ORION_API_CA
    for setting in API_ENDPOINT MY_HOST_IP MY_HOST_PORT ORION_INSECURE_HTTP ORION_API_CA ORION_WORKER_TAGS \
        ORION_AGENT_GPUS ORION_REFUSED_RETRY_S ORION_CONTAINERS_LISTEN RUST_LOG; do
        [ -z "${!setting:-}" ] || printf 'export %s=%q\n' "$setting" "${!setting}"
    done
}
prepare_engine() { # in the worker's tree: its images, the cgroups' hierarchies, and what init.sh runs
    local controller parent=/orion-worker-$WORKER_NAME/docker
    mkdir -p var/lib/docker
    mount --bind "$WORKER_DIR/images" var/lib/docker
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        # Version 2 has no processes in a cgroup that has cgroups below.
        parent=/orion-worker-$WORKER_NAME-docker
        mount -t cgroup2 cgroup sys/fs/cgroup
    else
        mount -t tmpfs -o mode=755 cgroups sys/fs/cgroup
        for controller in cpu cpuacct cpuset memory pids devices freezer blkio; do
            mkdir "sys/fs/cgroup/$controller"
            mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller" || rmdir "sys/fs/cgroup/$controller"
        done
        # containerd follows no container out of memory where a hierarchy in /proc/PID/cgroup is not mounted.
        mkdir sys/fs/cgroup/systemd
        mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd || rmdir sys/fs/cgroup/systemd
    fi
    echo '{}' >run/orion-engine.json
    {
        printf 'cgroup_parent=%q registry=%q\n' "$parent" "$(cat "$WORKER_DIR/engine")"
        cat "$WORKER_SCRIPTS/engine.sh"
    } >run/orion-engine
}
replace() { # MODE FILE: by what is on stdin, or not at all
    if ! (umask 077 && cat >"$2.new" && chmod "$1" "$2.new" && mv "$2.new" "$2"); then
        rm -f "$2.new"
        echo "$2 stays as it was"
    fi
}

first_boot=''
echo 0 >"$WORKER_CGROUP/cgroup.procs"
exec 3>>"$WORKER_DIR/agent.log" 4>>"$WORKER_DIR/sshd.log"
read -r pid _ </proc/self/stat # /proc is still the host's, and so is this number
echo "$pid" >"$WORKER_DIR/pid"
cd "$WORKER_DIR/disk"
[ -e formatted ] || first_boot=yes
mount -t overlay orion-worker -o "lowerdir=$WORKER_LOWER,upperdir=$PWD/upper,workdir=$PWD/work" merged
cd merged
if [ -n "$first_boot" ]; then
    if [ "$WORKER_KIND" = busybox ]; then format_busybox; else fill_first_boot; fi
    ssh-keygen -q -t ed25519 -N '' -C "root@$WORKER_NAME" -f etc/ssh/ssh_host_ed25519_key
    [ "$WORKER_KIND" = busybox ] || "first_boot_$WORKER_KIND"
    : >../formatted
fi
install_agent

mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=700 root root
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm run/sshd
mkdir -m 1777 run/lock
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
install -m 664 -g utmp /dev/null run/utmp
cat /proc/sys/kernel/random/uuid >run/boot_id # each boot has its own, as on a real machine
mount --bind run/boot_id proc/sys/kernel/random/boot_id
echo "$WORKER_NAME" >proc/sys/kernel/hostname
[ ! -e "$WORKER_DIR/engine" ] || prepare_engine
cp "$WORKER_SCRIPTS/init.sh" run/orion-worker-init # also the sign that all is in place
"boot_$WORKER_KIND"

pivot_root . .
umount -l . # the host's tree
cd /
case $WORKER_KIND in
    busybox) exec env -i PATH="$PATH" /bin/busybox init </dev/null >/dev/null 2>&4 ;;
    systemd) exec env -i PATH="$PATH" container=orion /lib/systemd/systemd --log-target=journal </dev/null >/dev/null 2>&4 3>&- 4>&- ;;
    *) exec env -i PATH="$PATH" LC_ALL=C.UTF-8 /bin/bash run/orion-worker-init </dev/null >/dev/null 2>&4 ;;
esac
