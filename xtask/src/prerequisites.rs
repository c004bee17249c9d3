//! Debian packages the build and the tests need.

use std::io::Write;
use std::process::Command;

use crate::run::{self, Outcome};

/// Package, and what of it is used.
const PACKAGES: [(&str, &str); 42] = [
    ("gcc", "links programs, compiles the guest kernel"),
    ("g++", "compiles libFuzzer"),
    ("libc6-dev", "links programs"),
    ("make", "builds the guest kernel"),
    ("flex", "builds the guest kernel"),
    ("bison", "builds the guest kernel"),
    ("bc", "builds the guest kernel"),
    ("patch", "adapts the guest kernel"),
    ("libelf-dev", "builds the guest kernel"),
    ("libssl-dev", "builds the guest kernel"),
    ("xz-utils", "unpacks the kernel source"),
    ("binutils", "strips the guest kernel"),
    ("kmod", "builds the guest kernel"),
    ("libseccomp-dev", "compiles seccomp filters"),
    ("libcap-ng-dev", "links the file server of volumes"),
    ("pkg-config", "finds libseccomp"),
    ("qemu-system-x86", "runs the virtual machines"),
    ("e2fsprogs", "formats writable layers"),
    ("erofs-utils", "checks our images with fsck.erofs"),
    ("passt", "connects sandboxes to the network"),
    ("busybox-static", "the demo's and the tests' image"),
    ("umoci", "makes and unpacks images to compare with"),
    ("attr", "the tests set extended attributes"),
    ("libcap2-bin", "the tests set file capabilities"),
    (
        "kubernetes-client",
        "the tests speak to their API server with kubectl",
    ),
    ("prometheus", "its promtool checks and tries the alerts"),
    ("python3-venv", "Helm's engine comes in a Python package"),
    ("docker-registry", "the tests pull from it"),
    ("mmdebstrap", "makes the image with real software"),
    ("openssl", "makes the tests' certificates"),
    ("skopeo", "the tests push with it"),
    ("containerd", "the tests run pods with it"),
    ("podman", "the tests run containers with it"),
    ("containernetworking-plugins", "connect the tests' pods"),
    (
        "protobuf-compiler",
        "compiles the CRI's messages for the tests",
    ),
    ("systemd", "runs a machine of the tests"),
    ("dbus", "joins it to whoever asks something of it"),
    ("iproute2", "the tests make network namespaces"),
    ("iptables", "the tests make a service mesh with it"),
    ("perl-base", "the tests hold a program with it"),
    ("procps", "the tests send signals by `kill`"),
    ("fdisk", "checks our partition tables"),
];

/// Runtimes that are measured beside ours.
const PEERS: [(&str, &str); 3] = [
    ("runc", "measured: containers of the host's kernel"),
    ("crun", "measured: the same, in C"),
    ("runsc", "measured: gVisor"),
];

/// What a cluster of one node is made of and made with.
const CLUSTER: [(&str, &str); 5] = [
    ("dpkg-dev", "unpacks Kubernetes' source"),
    ("golang-go", "compiles Kubernetes"),
    ("rsync", "Kubernetes' build copies with it"),
    ("etcd-server", "keeps the cluster's objects"),
    ("conntrack", "the node's proxy forgets connections with it"),
];

/// Packages that cannot be installed beside another maker's of the same program.
const ELSEWHERE: [(&str, &str); 1] = [("kubernetes-client", "kubectl")];

/// Installs what is missing, asking first unless told not to.
pub(crate) fn install(yes: bool) -> Outcome {
    install_of(&PACKAGES, yes)
}

/// The same, for what a measurement compares with.
pub(crate) fn install_peers(yes: bool) -> Outcome {
    install_of(&PEERS, yes)
}

/// The same, for a cluster on this machine.
pub(crate) fn install_cluster(yes: bool) -> Outcome {
    install_of(&CLUSTER, yes)
}

fn install_of(packages: &[(&str, &str)], yes: bool) -> Outcome {
    let missing: Vec<_> = packages
        .iter()
        .filter(|(name, _)| !installed(name) && !had_otherwise(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("these Debian packages are needed and missing:");
    for (name, why) in &missing {
        println!("  {name:<18} {why}");
    }
    if !yes && !confirmed()? {
        return Err("install them, or run again with --yes".to_owned());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let apt = |args: &[&str]| {
        let mut command = privileged("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run::command(&mut command)
    };
    apt(&["update", "-qq"])?;
    let install = ["install", "-qq", "-y", "--no-install-recommends"];
    apt(&install.into_iter().chain(names).collect::<Vec<_>>())
}

/// Helm's own engine, from the package index of Python: Debian has no Helm.
/// What else could render the chart is not what users render it with.
const HELM: &str = "helm-python-sdk==0.2.2";

/// Installs Helm's engine below `target`, where the tests of the chart look.
pub(crate) fn helm() -> Outcome {
    let dir = run::workspace().join("target/helm");
    let python = dir.join("bin/python");
    let has = Command::new(&python)
        .args(["-c", "import helm_python"])
        .output();
    if has.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    run::command(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    run::command(Command::new(&python).args(["-m", "pip", "install", "--quiet", HELM]))
}

fn privileged(program: &str) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    });
    if root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f=${Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout.ends_with(b"install ok installed"))
}

/// Is the program the package is wanted for here from somewhere else?
fn had_otherwise(package: &str) -> bool {
    let program = ELSEWHERE.iter().find(|(name, _)| *name == package);
    let path = std::env::var_os("PATH").unwrap_or_default();
    program.is_some_and(|(_, program)| {
        std::env::split_paths(&path).any(|dir| dir.join(program).exists())
    })
}

fn confirmed() -> Outcome<bool> {
    print!("install them now? [y/N] ");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| e.to_string())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
