#!/bin/sh
# PID 1 of a worker container: makes the host keys that are missing, then keeps sshd and the agent running.
#
# A shell and not the agent is PID 1, because somebody has to collect the processes that a lease leaves
# behind: `wait` in dash, bash and BusyBox's ash reaps every child of PID 1, also those it never started.
# Settings come from the container's environment (API_ENDPOINT, ORION_JOIN_TOKEN_FILE, MY_HOST_PORT, ...).
# Keep /etc/ssh and /var/lib/orion-agent on volumes if the container is to remain the same node when it is
# made anew, and /var/lib/orion with them: it holds the deadlines.
set -eu

complain() {
    echo "agent-entrypoint: $1" >&2
    echo "hint: $2" >&2
    exit 64
}

[ -n "${API_ENDPOINT:-}" ] || complain "no control plane is named" "set API_ENDPOINT, for example https://orion.example"
[ -n "${ORION_JOIN_TOKEN:-}" ] || [ -n "${ORION_JOIN_TOKEN_FILE:-}" ] || [ -e /var/lib/orion-agent/node.json ] ||
    complain "there is no join token" "set ORION_JOIN_TOKEN_FILE (a mounted secret) or ORION_JOIN_TOKEN"
command -v orion-agent >/dev/null || complain "there is no orion-agent" "put it into /usr/local/sbin"
[ -x /usr/sbin/sshd ] || complain "there is no sshd" "install openssh-server"

mkdir -p /run/sshd /var/lib/orion
chmod 755 /run/sshd
rm -f /run/sshd.pid
ssh-keygen -A >/dev/null
/usr/sbin/sshd -t

# Nothing of the container's environment, the join token least of all, is for sshd and its logins. sshd goes
# to the background by itself: what a shell starts with `&` ignores SIGINT, and so would every login.
start_sshd() {
    log=''
    # shellcheck disable=SC2188
    if (>>"/proc/$$/fd/2") 2>/dev/null; then log=/proc/$$/fd/2; fi
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/sshd ${log:+-E "$log"} ||
        echo "agent-entrypoint: sshd does not start; it is tried again" >&2
}

# Sends USR1 to PID 1 for as long as sshd is not there.
watch_sshd() {
    while sleep 2; do
        pid=''
        { read -r pid </run/sshd.pid; } 2>/dev/null || true
        if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then kill -USR1 $$; fi
    done
}

stop='' agent='' sshd_is_gone=''
trap 'stop=yes; [ -z "$agent" ] || kill -TERM "$agent" 2>/dev/null || true' TERM INT
trap 'sshd_is_gone=yes' USR1

# The agent comes first: a lease that ended meanwhile is locked before a login is possible.
orion-agent run &
agent=$!
start_sshd
watch_sshd &

while [ -z "$stop" ] || kill -0 "$agent" 2>/dev/null; do
    result=0
    # Reaps everything meanwhile; a signal ends it early.
    wait "$agent" || result=$?
    if [ -n "$sshd_is_gone" ] && [ -z "$stop" ]; then
        sshd_is_gone=''
        echo "agent-entrypoint: sshd is not there; it is started" >&2
        start_sshd
    fi
    if [ -z "$stop" ] && ! kill -0 "$agent" 2>/dev/null; then
        echo "agent-entrypoint: the agent has ended ($result); it is started again" >&2
        sleep 1
        [ -z "$stop" ] || break
        orion-agent run &
        agent=$!
    fi
done
# When PID 1 ends, the kernel ends sshd and every login with it.
