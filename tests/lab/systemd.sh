#!/bin/bash
# What has to work where systemd runs the machine and looks after its control groups, of
# version 2: `cargo xtask lab --systemd -- bash tests/lab/systemd.sh …`. Podman is as it
# comes, without a word of configuration.
# Arguments: the program, the directory of an OCI image, the tests of pods and their host.
set -euo pipefail
bulkhead=$1
image=$2
pods=$3
passed=0
ok() {
    echo "$1: ok"
    passed=$((passed + 1))
}
is() {
    if [ "$2" != "$3" ]; then
        echo "$1: \`$2\` instead of \`$3\`"
        exit 1
    fi
    ok "$1"
}
# The group of a container, below the hierarchy's root.
group() { sed s/^0::// "/proc/$(podman inspect --format '{{.State.Pid}}' "$1")/cgroup"; }
gone() { timeout 10 sh -c "while test -e '$1'; do sleep 0.1; done"; }

# Layers of an overlay cannot be on the lab's root, which is one.
mount -t tmpfs tmpfs /var/lib/containers
mount --make-rshared /
podman pull --quiet "oci:$image:latest" > /dev/null
image=$(podman images --quiet | head -n 1)
run() { podman --runtime "$bulkhead" run --network none "$@"; }

is "Podman leaves control groups to systemd" \
    "$(podman info --format '{{.Host.CgroupManager}} {{.Host.CgroupsVersion}}')" "systemd v2"
run --detach --name own "$image" sh -c 'echo said; exec sleep 1000' > /dev/null
group=$(group own)
scope=${group##*/}
is "a container's group is a scope of systemd's" \
    "$(systemctl show --value --property ActiveState,Delegate,Slice "$scope" | sort | xargs)" \
    "active machine.slice yes"
grep -q . <<< "$(pgrep --full qemu-system)"
is "its machine is in it" "$(sed s/^0::// "/proc/$(pgrep --full qemu-system)/cgroup")" "$group"
before=$(sort "/sys/fs/cgroup$group/cgroup.procs")
systemctl daemon-reload
is "it keeps its processes when systemd is reloaded" \
    "$(sort "/sys/fs/cgroup$group/cgroup.procs")" "$before"
is "and what it counts" "$(test "$(cat "/sys/fs/cgroup$group/memory.current")" -gt 0 && echo yes)" yes
is "so that Podman can tell" \
    "$(podman stats --no-stream --no-reset --format '{{.MemUsage}}' own | grep -c '^0B')" 0
is "output is in the journal" "$(podman logs own)" said
is "a further process" "$(podman exec own uname -r | grep -c bulkhead)" 1
podman rm --force --time 0 own > /dev/null
gone "/sys/fs/cgroup$group"
is "its scope ends with it" "$(systemctl is-active "$scope" || true)" inactive

# A container of a pod of Podman's is accounted for by itself.
podman --runtime "$bulkhead" pod create --name pod --infra-image "$image" \
    --infra-command '/bin/sleep 100000' --share net,ipc,uts --network none > /dev/null
podman --runtime "$bulkhead" run --detach --pod pod --name member "$image" sleep 1000 > /dev/null
is "a container of a pod has a scope too" "$(systemctl is-active "$(basename "$(group member)")")" active
podman pod rm --force --time 0 pod > /dev/null

# As Podman's own units (quadlets) run containers.
systemd-run --quiet --unit web --property Type=notify --property NotifyAccess=all \
    --property KillMode=mixed --property Delegate=yes \
    podman --runtime "$bulkhead" run --sdnotify conmon --cgroups split --detach --rm --name web \
    --network none "$image" sh -c 'trap "exit 0" TERM; sleep 1000 & wait'
is "a container is a service of systemd's" "$(podman exec web uname -r | grep -c bulkhead)" 1
is "which has its machine" "$(group web | cut -d / -f 1-3)" /system.slice/web.service
systemctl stop web
is "and ends with it" "$(podman ps --all --quiet; pgrep --full qemu-system || true)" ""
is "nothing is left" "$(ls /run/bulkhead/oci /run/bulkhead/pods | grep -v : | xargs)" ""

# A pod in a slice, as the kubelet has it made.
export BULKHEAD_ACCEL=kvm BULKHEAD_TEST_PROGRAM=$bulkhead
"$pods" --exact a_pod_is_accounted_for_where_the_kubelet_looks > /tmp/pods.log 2>&1 || {
    cat /tmp/pods.log
    exit 1
}
ok "a pod of containerd's is accounted for in the kubelet's slice"
echo "$passed passed, 0 failed"
