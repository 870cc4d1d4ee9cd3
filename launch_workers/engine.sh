# The container engine of a worker, run again when it ends; the file is for tests of an engine that is down.
# In: cgroup_parent, registry (boot.sh writes them before this text).
# shellcheck shell=bash disable=SC2154
while :; do
    while [ -e /run/no-engine-restart ]; do sleep 0.1; done
    rm -f /run/docker.pid /run/docker/containerd/containerd.pid
    dockerd --config-file /run/orion-engine.json --cgroup-parent "$cgroup_parent" --insecure-registry "$registry" \
        >>/var/log/dockerd.log 2>&1
    sleep 0.2
done
