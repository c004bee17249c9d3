#!/bin/sh
# What is measured of disks and of the network, wherever it runs: each figure on a
# line of its own, `name value`. Arguments: a directory of the root filesystem, a
# block device, whom to speak with.
#
# `peer NAMESPACE FILES` is the other side of the network, on the host: in a network
# namespace, with the files of the image as its own. Its processes end with it.
set -eu
seconds=4

if [ "$1" = peer ]; then
    exec nsenter --net="/run/netns/$2" unshare --pid --fork --kill-child \
        --mount --mount-proc --root="$3" /bin/sh /work.sh serve > /dev/null
fi

if [ "$1" = serve ]; then
    iperf3 --server > /dev/null &
    exec qperf
fi
directory=$1 device=$2 peer=$3

# Direct: what is measured is the way to the disk, not the guest's memory.
# In fio's terse form, 7 and 48 are KiB a second read and written, 8 and 49 calls.
disk() {
    fio --name="$1" --filename="$2" --size=256M --direct=1 --ioengine=psync \
        --rw="$3" --bs="$4" --time_based --runtime="$seconds" --randrepeat=0 \
        --output-format=terse --terse-version=3 | awk -F';' -v name="$1_$3" -v bs="$4" '
        bs == "1M" { print name "_mib_s", ($7 + $48) / 1024 }
        bs != "1M" { print name "_calls_s", $8 + $49 }'
}

# The first makes the file.
for where in "root $directory/io" "volume $device"; do
    for work in "write 1M" "read 1M" "randread 4k" "randwrite 4k"; do
        # shellcheck disable=SC2086
        disk $where $work
    done
done
rm "$directory/io"

stream() {
    iperf3 --client "$peer" --time "$seconds" --format m "$@" |
        awk -v name="$name" '/receiver/ { print name, $7 }'
}
name=network_out_mbit_s stream
name=network_in_mbit_s stream --reverse
# Half of a round trip of one byte.
qperf --time "$seconds" "$peer" tcp_lat | awk '
    /latency/ { print "network_latency_us", $3 * ($4 == "ms" ? 1000 : 1) }'
echo end
