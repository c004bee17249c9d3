#!/bin/busybox sh
# The init of a bare machine that does the work of io.sh: its root is a disk, as is
# the block device, and they are told apart by their serial numbers.
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t sysfs sys /sys
for disk in /sys/block/vd*; do
    case $($busybox cat "$disk/serial") in
    root) root=/dev/${disk##*/} ;;
    volume) volume=/dev/${disk##*/} ;;
    esac
done
$busybox mount -t ext4 "$root" /root
for place in dev proc sys; do
    $busybox mkdir -p "/root/$place"
done
$busybox mount -t devtmpfs dev /root/dev
$busybox mount -t proc proc /root/proc
$busybox mount -t sysfs sys /root/sys
$busybox ip link set lo up
$busybox ip link set eth0 mtu 1400 up
$busybox ip address add ADDRESS dev eth0
$busybox chroot /root /bin/sh /work.sh /var/tmp "$volume" PEER
# Init may not end.
exec $busybox sleep 1000000
