#!/bin/bash
# Runs a command on a cluster of one node that is made for it and ends with it:
# run.sh DIR LAYOUTS COMMAND [ARGUMENT...]
#
# DIR is for what is kept (Kubernetes' programs) and for the node; LAYOUTS has
# the images (`cargo xtask images`). The command finds KUBECONFIG set and is in
# the node's network. README.md says what the node is.
set -euo pipefail

dir=$(realpath -m "$1") layouts=$(realpath "$2")
shift 2
here=$(dirname "$(realpath "$0")")
state=$dir/node
group=bulkhead-kubernetes
init=''
node=''

say() { echo "kubernetes: $*"; }

# The node's directory in each hierarchy of control groups, below the one this
# process is in itself.
own_groups() {
  local line controllers path place
  while IFS= read -r line; do
    controllers=${line#*:}
    path=${controllers#*:}
    controllers=${controllers%%:*}
    place=/sys/fs/cgroup/${controllers#name=}
    [ -n "$controllers" ] || place=$(findmnt -rno TARGET -t cgroup2 | head -n 1)
    [ ! -d "$place" ] || echo "$place${path%/}/$group"
  done </proc/self/cgroup
}

# Enters them; a new cpuset has no processor until it is given its parent's.
enter_groups() {
  local place name
  for place in $groups; do
    mkdir -p "$place"
    for name in cpuset.cpus cpuset.mems; do
      [ ! -e "$place/$name" ] || cat "${place%/*}/$name" >"$place/$name"
    done
    echo "$BASHPID" >"$place/cgroup.procs"
  done
}

leave_nothing() {
  local place
  if [ -n "$init" ]; then
    # The first process of its namespace: everything in it ends with it, and
    # then unshare, which waits for it.
    kill -KILL "${node:-$init}" 2>/dev/null || true
    wait "$init" 2>/dev/null || true
  fi
  for place in $groups; do
    [ ! -d "$place" ] || find "$place" -depth -type d -exec rmdir {} +
  done
  rm -rf "$state"/{upper,work,root,containerd,kubelet,images,pki,settings}
}

in_node() { nsenter --target "$node" --all "$@"; }
beside_node() { KUBECONFIG=$state/pki/admin.kubeconfig nsenter --target "$node" --net "$@"; }
ask() { beside_node kubectl "$@"; }

# comes SECONDS WHAT COMMAND...
comes() {
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$init" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
      say "$what did not come within $seconds s; the logs are in $state/log" >&2
      return 1
    fi
    sleep 0.5
  done
}

has_first_process() { node=$(pgrep --parent "$init"); }

start() {
  rm -rf "$state"
  mkdir -p "$state/log"
  "$here/pki.sh" "$state/pki" bulkhead-node 192.0.2.1
  "$here/images.sh" "$layouts" "$state/images"
  (
    enter_groups
    exec setpriv --pdeathsig KILL \
      unshare --mount --propagation private --pid --fork --kill-child --uts --ipc --net --cgroup \
      "$here/node.sh" "$state"
  ) >"$state/log/boot.log" 2>&1 9>&- &
  init=$!
  comes 10 "the node's first process" has_first_process
  comes 60 "the API server" ask get --raw /readyz
  comes 60 "the node" ask wait --for=condition=Ready node/bulkhead-node --timeout=1s
  local archive
  for archive in "$state"/images/*.tar; do
    in_node ctr --namespace k8s.io images import "/images/${archive##*/}" >/dev/null
  done
  comes 60 "the default service account" ask get serviceaccount default
}

[ "$(id -u)" = 0 ] || {
  say "root is needed, for namespaces and control groups" >&2
  exit 1
}
mkdir -p "$dir"
exec 9>"$dir/lock"
flock --nonblock 9 || {
  say "another cluster runs in $dir" >&2
  exit 1
}
groups=$(own_groups)
trap leave_nothing EXIT
trap 'exit 130' INT TERM
"$here/programs.sh" "$dir" 9>&-
say "a cluster of one node is started"
start
ask get nodes -o wide
beside_node "$@" || {
  status=$?
  # What a person would look at next.
  ask get pods,events --all-namespaces -o wide >&2 || true
  say "the logs are in $state/log" >&2
  exit $status
}
