//! What the end-to-end tests share: an image, a place for containers, and the
//! program under test, run as users run it.
//!
//! The program comes from `BULKHEAD_TEST_PROGRAM` (set by `cargo xtask test`),
//! else from the workspace's target directory. It needs QEMU, a built guest
//! and the tools `cargo xtask test` installs; what is missing fails a test
//! with its name.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up has failed"
)]

mod answer;
mod docker;
mod group;
mod guide;
pub mod kubelet;
mod loops;
mod node;
mod person;
mod podman;
mod processes;
pub mod replay;
mod software;
mod waiting;

pub use answer::Answer;
pub use docker::{DOCKER_IMAGE, Docker};
pub use group::{PodGroup, bound};
pub use guide::{Command as GuideCommand, follow, guide};
pub use k8s_cri::v1 as cri;
pub use loops::LoopDevice;
pub use node::{Container, Executed, Forwarded, Node, OCI, PODS, Pod, in_machine, remove_cgroup};
pub use person::Person;
pub use podman::{PODMAN_IMAGE, Podman};
pub use processes::{arguments, in_cgroup, processes};
pub use waiting::{nothing_is_left, soon};

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A root of its own for containers and images; everything in it is killed
/// and removed at the end.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    image: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host without containers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            image: None,
        }
    }

    /// A host without containers whose image has much of Debian in it: servers,
    /// a compiler, an init system. The layer is converted once for all hosts.
    #[must_use]
    pub fn with_software() -> Self {
        let mut host = Self::new();
        let (image, store) = software::image();
        std::os::unix::fs::symlink(store, host.dir.path().join("store")).unwrap();
        host.image = Some(image);
        host
    }

    /// The image its containers are started from.
    #[must_use]
    pub fn image(&self) -> String {
        self.image.clone().unwrap_or_else(image)
    }

    /// The program, not yet started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(args)
            .env("BULKHEAD_ROOT", self.dir.path())
            .env("BULKHEAD_ACCEL", accelerator());
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    #[must_use]
    pub fn bulkhead(&self, args: &[&str]) -> Answer {
        Answer::of(&mut self.command(args))
    }

    /// Runs a shell script in a container that is removed at its end.
    #[must_use]
    pub fn run(&self, options: &[&str], script: &str) -> Answer {
        let image = self.image();
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(options);
        args.extend([image.as_str(), "sh", "-c", script]);
        self.bulkhead(&args)
    }

    /// Starts a shell script in the background.
    pub fn start(&self, name: &str, options: &[&str], script: &str) {
        let image = self.image();
        let mut args = vec!["run", "--detach", "--name", name];
        args.extend(options);
        args.extend([image.as_str(), "sh", "-c", script]);
        let answer = self.bulkhead(&args);
        assert_eq!(answer.code, 0, "{answer:?}");
    }

    /// Runs a shell script in a running container.
    #[must_use]
    pub fn exec(&self, name: &str, script: &str) -> Answer {
        self.bulkhead(&["exec", name, "sh", "-c", script])
    }

    /// What `inspect` says of a container's state.
    #[must_use]
    pub fn state(&self, name: &str) -> serde_json::Value {
        let answer = self.bulkhead(&["inspect", name]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let all: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        all[0]["state"].clone()
    }

    /// Directories of containers that are left.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().join("containers");
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// Where everything is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Processes that belong to this host: those with its directory in their
    /// environment or open files.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == std::process::id().to_string() {
                continue;
            }
            let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ");
            let files = std::fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let own = self.dir.path().to_string_lossy().into_owned();
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let holds = files
                .filter_map(|file| std::fs::read_link(file.path()).ok())
                .any(|target| target.to_string_lossy().starts_with(&own));
            if args.contains(&own) || environment.contains(&own) || holds {
                found.push(format!("{pid} {args}"));
            }
        }
        found
    }
}

impl Host {
    /// Every process of this host ends within a second.
    pub fn settles(&self) {
        nothing_is_left(std::time::Duration::from_secs(1), || self.processes());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.bulkhead(&["rm", "--force", "--all"]);
    }
}

/// How guests run: emulated where nobody says `BULKHEAD_ACCEL`.
#[must_use]
pub fn accelerator() -> String {
    std::env::var("BULKHEAD_ACCEL").unwrap_or_else(|_| "tcg".to_owned())
}

/// Is systemd this machine's first process? sd_booted(3).
#[must_use]
pub fn booted_by_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The program under test.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program() -> PathBuf {
    let path = std::env::var_os("BULKHEAD_TEST_PROGRAM").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/bulkhead"),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "`{}` is missing: run `cargo xtask test`",
        path.display()
    );
    path
}

/// The directory of a process's own control group, as a shell in its container
/// finds it. cgroups(7).
pub const OWN_GROUP: &str = "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)";

/// The kernel of this machine.
#[must_use]
pub fn host_kernel() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    text.trim().to_owned()
}

/// Ends by SIGTERM, at leisure, with a code of its own; it says `up`, and then `bye`.
pub const POLITE: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done";

/// Runs a tool that has to succeed.
pub fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("`{program}`: {error}; `cargo xtask test` installs it"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// Writes a program, by a process of its own: while this one has a file open for
/// writing, another test's child may be born with it, and nobody could execute it.
/// execve(2), ETXTBSY.
pub fn write_program(path: &Path, text: &str) {
    let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
    tool("sh", &["-c", write, &path.display().to_string(), text]);
}

/// Reference of an image with static busybox, made once for each test program.
pub fn image() -> String {
    static IMAGE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        busybox_image(dir.path());
        // For callers without root, too.
        tool("chmod", &["-R", "a+rX", &dir.path().display().to_string()]);
        dir
    });
    format!("oci:{}:latest", dir.path().join("image").display())
}

/// Makes an OCI layout `image` with the tag `latest` in a directory.
pub fn busybox_image(dir: &Path) {
    let root = dir.join("root");
    for name in ["bin", "tmp", "proc", "sys", "dev", "etc", "home"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("/bin/busybox is there: `apt install busybox-static`");
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for link in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(link)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nlogs:x:50:web\n").unwrap();
    let layout = dir.join("image").display().to_string();
    let image = format!("{layout}:latest");
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &image]);
    tool(
        "umoci",
        &[
            "insert",
            "--image",
            &image,
            &root.display().to_string(),
            "/",
        ],
    );
    tool(
        "umoci",
        &["config", "--image", &image, "--config.cmd", "/bin/sh"],
    );
}

/// splitmix64: a walk is the same every time.
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
