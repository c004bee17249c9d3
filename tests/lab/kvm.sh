#!/bin/sh
# What has to work on real KVM, run in the lab: `cargo xtask lab -- sh tests/lab/kvm.sh`.
# Arguments: the program, an image, the program that measures pods.
set -eu
bulkhead=$1
image=$2
pods=$3
export BULKHEAD_ROOT=/tmp/bulkhead BULKHEAD_START_TIMEOUT=300
run() { "$bulkhead" run --rm --accel kvm --network none "$@"; }
is() {
    if [ "$2" != "$3" ]; then
        echo "$1: \`$2\` instead of \`$3\`"
        exit 1
    fi
    echo "$1: ok"
}

is "a kernel of its own" "$(run "$image" uname -r | grep -c bulkhead)" 1
mkdir /tmp/volume
echo from the host > /tmp/volume/host
seen=$(run -v /tmp/volume:/volume "$image" sh -c 'cat /volume/host; echo from the guest > /volume/guest')
is "a volume is read" "$seen" "from the host"
is "a volume is written" "$(cat /tmp/volume/guest)" "from the guest"
"$bulkhead" run -d --name lasting --accel kvm --network none "$image" sleep 1000 > /dev/null
monitor=$("$bulkhead" inspect lasting | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')
user=$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "/proc/$monitor/status")
if [ "$user" = 0 ]; then
    echo "the monitor runs as root"
    exit 1
fi
is "a further process" "$("$bulkhead" exec lasting echo here)" here
"$bulkhead" rm -f lasting > /dev/null
if [ -e "/proc/$monitor" ]; then
    echo "the monitor is left"
    exit 1
fi
export BULKHEAD_ACCEL=kvm BULKHEAD_TEST_PROGRAM="$bulkhead"
is "a pod's life under containerd" "$("$pods" 1 0 1 | grep -c start_ms)" 1
echo "5 passed, 0 failed"
