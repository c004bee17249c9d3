# Runs a command in the root file system $1, with this machine's kernel, and the directories $2 and $3 where they are
# here. In a mount namespace of its own: everything ends with it. As a root that is a mount: what pivots into another
# one from here could not from a chroot. pivot_root(2).
set -e
root=$1 own=$2 guests=$3
shift 3
mount --rbind "$root" "$root"
for dir in /dev /proc /sys /tmp "$own" "$guests"; do
    mkdir -p "$root$dir"
    mount --rbind "$dir" "$root$dir"
done
mount -t tmpfs run "$root/run"
mkdir -p "$root/run/lock" "$root/old"
cd "$root"
pivot_root . old
umount -l /old
cd "$own"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
