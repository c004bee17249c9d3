#!/bin/bash
# The node's first process: makes a machine of the namespaces it is in, and
# becomes its systemd. node.sh DIR, which run.sh filled; see there.
#
# `/` is the machine's, under a layer that takes what is written. An overlay
# carries neither an overlay nor what containerd and the kubelet do with mounts,
# so their directories are DIR's own.
set -euo pipefail

dir=$1
here=$(dirname "$(realpath "$0")")
root=$dir/root

root() {
  mkdir -p "$dir/upper" "$dir/work" "$root"
  mount -t overlay node -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$root"
  mount -t tmpfs -o mode=755 node "$root/run"
  mount -t tmpfs -o mode=1777 node "$root/tmp"
  local place
  for place in var/lib/containerd var/lib/kubelet var/log; do
    mkdir -p "$dir/${place##*/}" "$root/$place"
    mount --bind "$dir/${place##*/}" "$root/$place"
  done
}

# Devices that are the node's own nodes: whatever is made beside them is not
# the machine's.
devices() {
  local dev=$root/dev name
  mount -t tmpfs -o mode=755 node "$dev"
  mkdir "$dev/pts" "$dev/shm" "$dev/net"
  for name in null zero full random urandom tty kmsg kvm fuse net/tun; do
    [ ! -e "/dev/$name" ] || cp -a "/dev/$name" "$dev/$name"
  done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 node "$dev/pts"
  mount -t tmpfs -o mode=1777 node "$dev/shm"
  # What systemd has to say.
  touch "$dir/log/console.log" "$dev/console"
  mount --bind "$dir/log/console.log" "$dev/console"
  ln -s pts/ptmx "$dev/ptmx"
  ln -s /proc/self/fd "$dev/fd"
  local fd=0
  for name in stdin stdout stderr; do
    ln -s "/proc/self/fd/$fd" "$dev/$name"
    fd=$((fd + 1))
  done
}

# The kernel's settings are all of the machine, but the network's. The kubelet
# wants three to have other values, and is shown these.
settings() {
  local sys=$root/proc/sys name
  mount -t proc proc "$root/proc"
  mount --bind "$sys" "$sys"
  mount --bind "$sys/net" "$sys/net"
  mount -o remount,bind,ro "$sys"
  mkdir -p "$dir/settings"
  for name in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    local shown=$dir/settings/${name##*/}
    echo "${name#*=}" >"${shown%=*}"
    mount --bind "${shown%=*}" "$sys/${name%=*}"
  done
}

# Those hierarchies the machine has, from the node's control groups on, and no
# others: systemd would make the rest, and they would stay.
control_groups() {
  local sys=$root/sys place name
  mount -t sysfs sysfs "$sys"
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$sys/fs/cgroup"
    return
  fi
  mount -t tmpfs -o mode=755 cgroup "$sys/fs/cgroup"
  for place in $(findmnt -rno TARGET -t cgroup); do
    name=${place##*/}
    mkdir "$sys/fs/cgroup/$name"
    case $name in
    systemd) mount -t cgroup -o none,name=systemd cgroup "$sys/fs/cgroup/$name" ;;
    *) mount -t cgroup -o "$name" cgroup "$sys/fs/cgroup/$name" ;;
    esac
  done
  mount -o remount,ro "$sys/fs/cgroup"
}

# Who makes control groups: systemd, as on clusters of kubeadm's and OpenShift's, or the
# kubelet and runc themselves, with a containerd that is configured as Debian's is.
cgroup_driver() {
  local driver=${CGROUP_DRIVER:-systemd}
  sed -i "s/CGROUP_DRIVER/$driver/" "$root/etc/kubernetes/kubelet.yaml"
  [ "$driver" = systemd ] || return 0
  cat "$here/etc/containerd-systemd.toml" >>"$root/etc/containerd/config.toml"
}

files() {
  local units=$root/etc/kubernetes/units
  mkdir -p "$root/etc/kubernetes" "$root/etc/containerd" "$root/usr/local/lib/kubernetes"
  mkdir -p "$root/etc/cni/net.d" "$root/images"
  rm -rf "${root:?}"/etc/cni/net.d/*
  cp -r "$dir/pki" "$here"/etc/*.yaml "$here/units" "$root/etc/kubernetes"
  # These are Debian's own.
  cp /lib/systemd/system/{containerd.service,dbus.service,dbus.socket} "$units"
  cp "$here/etc/pods.conflist" "$root/etc/cni/net.d/10-pods.conflist"
  cp "$here/etc/containerd.toml" "$root/etc/containerd/config.toml"
  cgroup_driver
  echo bulkhead-node >"$root/etc/hostname"
  # A machine of its own.
  rm -f "$root/etc/machine-id"
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  mount --bind "$dir/../bin" "$root/usr/local/lib/kubernetes"
  mount --bind "$dir/images" "$root/images"
}

# A link that leads nowhere: there is no network but the node's own.
network() {
  ip link set lo up
  ip link add node0 type veth peer name nowhere
  ip address add 192.0.2.1/24 dev node0
  ip link set node0 up
  ip link set nowhere up
  ip route add default dev node0
  sysctl -qw net.ipv4.ip_forward=1
}

network
root
devices
settings
control_groups
files
cd "$root"
mkdir -p run/machine
pivot_root . run/machine
umount -l /run/machine
# What pods are given of the node sees the mounts that come later.
mount --make-rshared /
exec env -i container=bulkhead PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SYSTEMD_UNIT_PATH=/etc/kubernetes/units SYSTEMD_LOG_TARGET=console \
  /lib/systemd/systemd --unit=cluster.target </dev/null
