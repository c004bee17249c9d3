//! A Docker of its own, in namespaces that end with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::node::{handler, network};
use crate::{Answer, busybox_image, in_cgroup, in_machine, remove_cgroup, tool, write_program};

/// How long its daemon may take to answer.
const UP: Duration = Duration::from_secs(20);

/// Docker's daemon, with one image.
#[derive(Debug)]
pub struct Docker {
    dir: tempfile::TempDir,
    namespace: String,
    daemon: Child,
}

/// The image.
pub const DOCKER_IMAGE: &str = "busybox:1";

/// Where its programs are: installed, or unpacked.
fn programs() -> PathBuf {
    let installed = Path::new("/usr");
    if installed.join("sbin/dockerd").exists() {
        return installed.to_owned();
    }
    let target = crate::program()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let root = target.join("docker/root/usr");
    assert!(
        root.join("sbin/dockerd").exists(),
        "`{}` has no Docker: `cargo xtask test` fetches it",
        root.display()
    );
    root
}

impl Docker {
    /// A daemon without containers.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let namespace = network("bhd");
        let daemon = daemon(dir.path(), &namespace);
        let own = Self {
            dir,
            namespace,
            daemon,
        };
        let deadline = Instant::now() + UP;
        while own.docker(&["version"]).code != 0 {
            let log = std::fs::read_to_string(own.dir.path().join("log"));
            assert!(Instant::now() < deadline, "Docker does not answer: {log:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        busybox_image(own.dir.path());
        let (root, tar) = (own.path("root"), own.path("root.tar"));
        tool("tar", &["-C", &root, "-cf", &tar, "."]);
        assert_eq!(own.docker(&["import", &tar, DOCKER_IMAGE]).code, 0);
        own
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Docker's client, not yet started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs().join("bin/docker"));
        let socket = format!("unix://{}", self.path("sock"));
        command.args(["--host", &socket]).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    #[must_use]
    pub fn docker(&self, args: &[&str]) -> Answer {
        Answer::of(&mut self.command(args))
    }

    /// `docker run` with the runtime under test, further options and a command.
    #[must_use]
    pub fn run(&self, options: &[&str], command: &[&str]) -> Answer {
        self.make("run", options, command)
    }

    /// `docker create` in the same way.
    #[must_use]
    pub fn create(&self, options: &[&str], command: &[&str]) -> Answer {
        self.make("create", options, command)
    }

    fn make(&self, verb: &str, options: &[&str], command: &[&str]) -> Answer {
        let runtime = match in_machine() {
            true => "kata".to_owned(),
            false => handler(),
        };
        let first = [verb, "--runtime", &runtime];
        self.docker(&[&first, options, &[DOCKER_IMAGE], command].concat())
    }

    /// What is left of containers on the host.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let processes = in_cgroup(&format!("/{}/", self.namespace)).into_iter();
        processes.map(|pid| format!("process {pid}")).collect()
    }
}

fn daemon(dir: &Path, namespace: &str) -> Child {
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::write(
        dir.join("machine"),
        format!("accelerator = \"{}\"\n", crate::accelerator()),
    )
    .unwrap();
    let launcher = format!(
        "#!/bin/sh\nexec {} --machine-config {} \"$@\"\n",
        crate::program().display(),
        at("machine")
    );
    write_program(&dir.join("kata"), &launcher);
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let programs = programs();
    let path = std::env::var("PATH").unwrap();
    let own = [programs.join("sbin"), programs.join("bin")].map(|dir| dir.display().to_string());
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["unshare", "--mount", "--propagation", "slave", "dockerd"])
        .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
        .args([
            "--pidfile",
            &at("pid"),
            "--host",
            &format!("unix://{}", at("sock")),
        ])
        .args([
            "--iptables=false",
            "--ip-masq=false",
            "--bip",
            "10.66.0.1/24",
        ])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .args(["--cgroup-parent", &format!("/{namespace}")])
        // What every machine lets runc set.
        .args(["--default-ulimit", "nofile=1024:1024"])
        .args(["--add-runtime", &format!("kata={}", at("kata"))])
        .env("PATH", format!("{}:{}:{path}:/usr/sbin", own[0], own[1]))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("nsenter is there: `apt install util-linux`")
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = self.docker(&["ps", "--all", "--quiet"]).out;
        let ids: Vec<_> = all.lines().collect();
        if !ids.is_empty() {
            let _ = self.docker(&[&["rm", "--force"], &ids[..]].concat());
        }
        // It ends its containerd on its way.
        let pid = self.daemon.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let _ = self.daemon.wait();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.namespace])
            .status();
        remove_cgroup(&self.namespace);
    }
}
