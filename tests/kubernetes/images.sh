#!/bin/bash
# Makes the archives the node imports: images.sh LAYOUTS DIR
#
# LAYOUTS is what `cargo xtask images` wrote. Beside these the node needs the
# pause image and one with a shell, which both are busybox.
set -euo pipefail

layouts=$(realpath "$1") dir=$2
mkdir -p "$dir"
cd "$dir"
rm -rf ./*
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# archive LAYOUT:TAG NAME
archive() {
  local file=${2##*/}
  skopeo copy --quiet "oci:$1" "oci-archive:${file%%:*}.tar:$2"
}

busybox() {
  local root=$scratch/root image=$scratch/layout:latest
  mkdir -p "$root"/{bin,tmp,proc,sys,dev,etc}
  cp /bin/busybox "$root/bin/busybox"
  /bin/busybox --list | grep -vx busybox | while read -r name; do
    ln -s busybox "$root/bin/$name"
  done
  echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"
  umoci init --layout "$scratch/layout"
  umoci new --image "$image"
  umoci insert --image "$image" "$root" /
  umoci config --image "$image" --tag pause --config.cmd /bin/sleep --config.cmd 1000000
  umoci config --image "$image" --config.cmd /bin/sh
  archive "$image" localhost/busybox:1
  archive "$scratch/layout:pause" localhost/pause:1
}

busybox >/dev/null
for name in bulkhead-operator bulkhead-node-agent; do
  tag=$(umoci list --layout "$layouts/$name" | head -n 1)
  archive "$layouts/$name:$tag" "localhost/$name:$tag"
done
