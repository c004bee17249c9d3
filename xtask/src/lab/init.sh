#!/busybox sh
# PID 1 of the lab: this machine's own root, under a kernel with real KVM.
/busybox mkdir -p /proc /sys /dev /lower /upper /root
b() { /busybox "$@"; }
b mount -t proc proc /proc
b mount -t devtmpfs dev /dev
# isa-debug-exit: QEMU ends with twice the number, plus one.
end() {
    b printf "\\x$(b printf %02x "$1")" > /code
    b dd if=/code of=/dev/port bs=1 seek=244 conv=notrunc 2> /dev/null
    b reboot -f
}
for module in /modules/*; do
    b insmod "$module" || { echo "lab: cannot load $module"; end 125; }
done
{
    b mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=512000 host /lower &&
        b mount -t tmpfs tmpfs /upper &&
        b mkdir /upper/upper /upper/work &&
        b mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work lab /root
} || { echo "lab: cannot mount the host's files"; end 125; }
cd /root || end 125
b mount -t proc proc proc
b mount -t sysfs sys sys
b mount -t devtmpfs dev dev
b mkdir -p dev/pts dev/shm
# As udev has it: a group of its own.
b chown 0:36 dev/kvm && b chmod 0660 dev/kvm
b mount -t devpts -o ptmxmode=666 devpts dev/pts
b mount -t tmpfs -o mode=1777 shm dev/shm
b mount -t tmpfs -o mode=755 run run
# The tree this was started from may be below /tmp: it is there in the new one too.
tree=$(b dirname "$(b dirname "$(b dirname "$(b cat /out)")")")
b mkdir /tree
b mount --bind "/root$tree" /tree
b mount -t tmpfs -o mode=1777 tmp tmp
b mkdir -p "/root$tree"
b mount --move /tree "/root$tree"
b mount -t cgroup2 cgroup sys/fs/cgroup
b mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 out "/root$(b cat /out)"
b ip link set lo up
b hostname lab
# From the initramfs: it is nowhere on the host.
b cp /command /root/tmp/lab-command
if b test -d /systemd; then
    # By this file systemd would take the lab for a container.
    b rm -f /root/.dockerenv
    b cp -r /systemd /root/run/lab
    b cp /root/lib/systemd/system/dbus.so* /root/lib/systemd/system/dbus.service \
        /root/lib/systemd/system/systemd-journald*.so* /root/lib/systemd/system/systemd-journald.service \
        /root/run/lab/units || end 125
fi
# As an initramfs does on a real host: whoever enters the mount namespace anew
# is to land here. This shell's own root stays what it was.
b mount --move . / || end 125
if b test -d /systemd; then
    exec /busybox env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/lab/units:/run/systemd/transient:/run/systemd/system \
        /busybox chroot . /lib/systemd/systemd --unit=lab.target --show-status=no
fi
b chroot . /bin/sh /tmp/lab-command
end $?
