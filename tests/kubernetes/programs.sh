#!/bin/bash
# Builds Kubernetes of Debian's source package: programs.sh DIR
#
# Debian builds kubectl of it and nothing else, but the source is whole, with
# what it is made of. The programs go to DIR/bin; if they are there, nothing is
# done. About a quarter of an hour on two cores, once.
set -euo pipefail

dir=$(realpath -m "$1")
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

all_there() {
  local program
  for program in "${programs[@]}"; do
    [ -x "$dir/bin/$program" ] || return 1
  done
}

# The machine's own sources, with what packages are made of: `deb` lines tell of both.
# Nothing of the machine is changed by that, lists go to a place of their own.
sources() {
  local apt=$dir/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts"
  cp -a /etc/apt/sources.list.d/. "$apt/parts"
  [ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$apt/parts/machine.list"
  sed -i 's/^Types:.*/Types: deb deb-src/' "$apt/parts"/*.sources 2>/dev/null || true
  sed -i '/^deb /{p;s//deb-src /}' "$apt/parts"/*.list 2>/dev/null || true
  cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/parts";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$apt/apt.conf
}

fetch() {
  mkdir -p "$dir/source"
  cd "$dir/source"
  [ ! -e unpacked ] || return 0
  sources
  apt-get update -qq
  apt-get source -qq --download-only kubernetes
  rm -rf tree
  dpkg-source -x ./kubernetes_*.dsc tree
  [ -d tree/cmd/kubelet ] || {
    echo "kubernetes: this Debian's source has kubectl alone; Debian 12's has everything" >&2
    exit 1
  }
  renew golang-github-modern-go-reflect2-dev github.com/modern-go/reflect2
  touch unpacked
}

# renew PACKAGE PATH: has the source use a library of Debian's in place of its
# own. This one reads maps as Go laid them out before 1.18, and what is compiled
# with a newer Go dies of it.
renew() {
  local of=usr/share/gocode/src/$2 to=tree/vendor/$2
  rm -rf library ./"$1"_*.deb
  apt-get download -qq "$1"
  dpkg-deb -x ./"$1"_*.deb library
  rm "$to"/*.go "$to"/*.s
  cp "library/$of"/*.go "library/$of"/*.s "$to"
}

# The version is told by whoever builds: a tree without Git does not know it.
tell_version() {
  local version
  version=$(basename "$dir"/source/kubernetes_*.orig.tar.*)
  version=${version#kubernetes_*really}
  version=${version#kubernetes_}
  version=${version%.orig.tar.*}
  local minor=${version#*.}
  cat >"$dir/version" <<END
KUBE_GIT_COMMIT=unknown
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v$version
KUBE_GIT_MAJOR=${version%%.*}
KUBE_GIT_MINOR=${minor%%.*}
END
}

build() {
  # Its generators want it below a GOPATH.
  mkdir -p "$dir/go/src/k8s.io" "$dir/home"
  ln -sfn "$dir/source/tree" "$dir/go/src/k8s.io/kubernetes"
  cd "$dir/go/src/k8s.io/kubernetes"
  env GOPATH="$dir/go" GO111MODULE=off CGO_ENABLED=0 HOME="$dir/home" \
    KUBE_GIT_VERSION_FILE="$dir/version" \
    nice -n 10 make WHAT="${programs[*]/#/cmd/}"
  mkdir -p "$dir/bin"
  local program
  for program in "${programs[@]}"; do
    install "_output/bin/$program" "$dir/bin/$program"
  done
  rm -rf "$dir/source/tree" "$dir/source/unpacked"
}

all_there && exit
echo "kubernetes: its programs are built, once (15 minutes)"
fetch
tell_version
build >"$dir/build.log" 2>&1 || {
  tail -n 30 "$dir/build.log" >&2
  echo "kubernetes: not built; all of the log is in $dir/build.log" >&2
  exit 1
}
