#!/bin/bash
# PID 1 of a worker: keeps sshd and the agent running, reaps whatever is orphaned.
# Descriptors from boot.sh: 3 is the agent's log on the host, 4 is sshd's.

run_sshd() { # [seconds to wait]; the file is for tests of an sshd that is down
    sleep "${1:-0}"
    while [ -e /run/no-sshd-restart ]; do sleep 0.1; done
    exec env --default-signal /usr/sbin/sshd -D -e 2>&4 3>&- 4>&-
}
run_agent() { # [seconds to wait]
    sleep "${1:-0}"
    # shellcheck source=/dev/null
    . /etc/orion/agent.env
    set --
    [ ! -e /etc/orion/join-token ] || set -- --join-token-file /etc/orion/join-token
    exec env --default-signal /usr/local/bin/orion-agent run "$@" >&3 2>&3 3>&- 4>&-
}

[ ! -x /etc/rc.local ] || /etc/rc.local
[ ! -e /run/orion-engine ] || /bin/bash /run/orion-engine </dev/null >/dev/null 2>&1 3>&- 4>&- &
agent=none
run_sshd &
sshd=$!
if [ -x /usr/local/bin/orion-agent ] && [ -e /etc/orion/agent.env ]; then
    run_agent &
    agent=$!
fi
while :; do
    ended=''
    wait -n -p ended || true
    case $ended in
        "$sshd") run_sshd 1 & sshd=$! ;;
        "$agent") run_agent 1 & agent=$! ;;
    esac
done
