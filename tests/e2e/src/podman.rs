//! A Podman of its own: images, containers and networks that nobody else sees, in
//! namespaces that end with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{handler, network};
use crate::{
    Answer, accelerator, booted_by_systemd, busybox_image, in_cgroup, in_machine, remove_cgroup,
    tool,
};

/// Podman, with one image.
#[derive(Debug)]
pub struct Podman {
    dir: tempfile::TempDir,
    namespace: String,
    group: String,
    /// Whose mounts are Podman's.
    holder: Child,
}

/// A Podman that sees no containers frees all locks, which every Podman of a machine has
/// in one place: another's container and volume may share one then, and wait for
/// themselves. Here each has its own.
const OWN: &str = "mount -t tmpfs shm /dev/shm && echo && exec sleep 86400";

/// Of the paths of conmon's scopes.
const MONITORS: &str = "/libpod-conmon-";

/// The image.
pub const PODMAN_IMAGE: &str = "localhost/busybox:1";

impl Podman {
    /// Podman without containers.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let namespace = network("bhp");
        configure(dir.path());
        let holder = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["unshare", "--mount", "--propagation", "slave"])
            .args(["sh", "-c", OWN])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.expect("nsenter is there: `apt install util-linux`");
        // It is there when it has said something.
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let group = match booted_by_systemd() {
            true => format!("{}.slice", namespace.replace('-', "_")),
            false => namespace.clone(),
        };
        let own = Self {
            dir,
            namespace,
            group,
            holder,
        };
        own.import();
        own
    }

    fn import(&self) {
        busybox_image(&self.path().join("busybox"));
        let layout = self.path().join("busybox/image").display().to_string();
        let archive = self.path().join("image.tar").display().to_string();
        let to = format!("oci-archive:{archive}:{PODMAN_IMAGE}");
        let from = format!("oci:{layout}:latest");
        tool("skopeo", &["copy", "--quiet", &from, &to]);
        let loaded = self.podman(&["load", "--quiet", "--input", &archive]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
    }

    /// Where everything of it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A command where Podman is.
    #[must_use]
    pub fn inside(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--mount", "--net", program])
            .args(args)
            .env("CONTAINERS_CONF", self.path().join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path().join("storage.conf"))
            // A line of Podman 5 on standard error.
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
            .stdin(Stdio::null());
        command
    }

    /// Gives it an `/opt` and an `/etc/containers` that are nobody else's.
    pub fn has_its_own_machine(&self) {
        let at = |name: &str| self.path().join(name).display().to_string();
        let script = format!(
            "mkdir {opt} && cp -r /etc/containers {etc} && cp {conf} {etc}/containers.conf && \
             mount --bind {opt} /opt && mount --bind {etc} /etc/containers",
            opt = at("opt"),
            etc = at("etc"),
            conf = at("containers.conf"),
        );
        let made = self.on_its_machine("sh", &["-c", &script]);
        assert_eq!(made.code, 0, "{made:?}");
    }

    /// Runs a command there, by the configuration that is there.
    #[must_use]
    pub fn on_its_machine(&self, program: &str, args: &[&str]) -> Answer {
        let mut command = self.inside(program, args);
        Answer::of(command.env_remove("CONTAINERS_CONF"))
    }

    /// The control group its containers are told to be in.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Podman, not yet started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        match in_machine() {
            true => self.ours(args),
            false => self.with_runtime(&handler(), args),
        }
    }

    /// Podman with the runtime under test, not yet started.
    #[must_use]
    pub fn ours(&self, args: &[&str]) -> Command {
        let settings = self.path().join("bulkhead.toml");
        let flag = format!("--runtime-flag=machine-config={}", settings.display());
        let program = crate::program().display().to_string();
        self.with_runtime(&program, &[&[flag.as_str()], args].concat())
    }

    /// Podman with any runtime, not yet started.
    #[must_use]
    pub fn with_runtime(&self, runtime: &str, args: &[&str]) -> Command {
        self.inside("podman", &[&["--runtime", runtime], args].concat())
    }

    /// Runs Podman to its end.
    #[must_use]
    pub fn podman(&self, args: &[&str]) -> Answer {
        Answer::of(&mut self.command(args))
    }

    /// What `podman run`, or `create`, is told of a container and its script.
    #[must_use]
    pub fn words<'a>(
        &'a self,
        verb: &'a str,
        options: &[&'a str],
        script: &'a str,
    ) -> Vec<&'a str> {
        let mut words = vec![verb, "--cgroup-parent", &self.group];
        words.extend(options);
        words.extend([PODMAN_IMAGE, "sh", "-c", script]);
        words
    }

    /// Runs a shell script in a container that is removed at its end.
    #[must_use]
    pub fn run(&self, options: &[&str], script: &str) -> Answer {
        let options = [&["--rm", "--network", "none"], options].concat();
        self.podman(&self.words("run", &options, script))
    }

    /// Starts a shell script in the background.
    pub fn begin(&self, name: &str, options: &[&str], script: &str) {
        let options = [&["--detach", "--name", name], options].concat();
        let begun = self.podman(&self.words("run", &options, script));
        assert_eq!(begun.code, 0, "{begun:?}");
    }

    /// Runs a shell script in a running container.
    #[must_use]
    pub fn exec(&self, name: &str, script: &str) -> Answer {
        self.podman(&["exec", name, "sh", "-c", script])
    }

    /// A fact about a container, by Podman's template.
    #[must_use]
    pub fn fact(&self, name: &str, template: &str) -> String {
        self.podman(&["inspect", "--format", template, name]).out
    }

    /// The process that stands for a container.
    #[must_use]
    pub fn pid(&self, name: &str) -> u32 {
        self.fact(name, "{{.State.Pid}}").parse().unwrap()
    }

    /// Processes of the containers: all that is in their control groups.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let watch = in_cgroup(MONITORS);
        let mut all = in_cgroup(&format!("/{}/libpod-", self.group));
        all.retain(|pid| !watch.contains(pid));
        all
    }

    /// What is left of containers on the host.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let processes = self.processes().into_iter();
        let mut left: Vec<_> = processes.map(|pid| format!("process {pid}")).collect();
        let groups = self.groups().into_iter();
        let groups = groups.filter(|path| !path.ends_with("conmon"));
        let groups = groups.filter(|path| !path.display().to_string().contains(MONITORS));
        let places = [crate::OCI, crate::PODS].map(|place| entries(Path::new(place)));
        let places = places.into_iter().flatten().filter(|dir| self.is_own(dir));
        left.extend(groups.chain(places).map(|path| path.display().to_string()));
        left
    }

    /// Control groups in its own, in every hierarchy.
    fn groups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = [vec![root.to_owned()], entries(root)].concat();
        let all = hierarchies.iter();
        let groups = all.flat_map(|hierarchy| entries(&hierarchy.join(&self.group)));
        groups.filter(|path| path.is_dir()).collect()
    }

    /// Is a directory of a container or its pod this Podman's? The files in it name the
    /// control group.
    fn is_own(&self, dir: &Path) -> bool {
        ["cgroup", "bundle/config.json"].iter().any(|file| {
            let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            ["/", ":"]
                .iter()
                .any(|end| text.contains(&format!("{}{end}", self.group)))
        })
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn configure(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    // Podman 5 knows nothing else; 4 has whichever is installed.
    let netavark = Path::new("/usr/lib/podman/netavark").exists();
    // With systemd, Podman is as it comes: scopes, and the journal.
    let (engine, containers) = match booted_by_systemd() {
        true => ("", ""),
        false => (
            "cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"",
            "log_driver = \"k8s-file\"",
        ),
    };
    let engine = format!(
        r#"[engine]
{engine}
tmp_dir = "{tmp}"
[network]
network_backend = "{backend}"
network_config_dir = "{networks}"
default_subnet = "10.77.0.0/16"
[containers]
{containers}
# What every machine lets runc set.
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"#,
        tmp = at("tmp"),
        networks = at("networks"),
        backend = if netavark { "netavark" } else { "cni" },
    );
    std::fs::write(dir.join("containers.conf"), engine).unwrap();
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        at("graph"),
        at("run"),
    );
    std::fs::write(dir.join("storage.conf"), storage).unwrap();
    let settings = format!("accelerator = \"{}\"\n", accelerator());
    std::fs::write(dir.join("bulkhead.toml"), settings).unwrap();
    std::fs::create_dir(dir.join("networks")).unwrap();
    if !netavark {
        cni(dir);
    }
}

/// Its one network, as Podman 4 has it of the CNI's plugins.
fn cni(dir: &Path) {
    let ipam = json!({
        "type": "host-local",
        "dataDir": dir.join("ipam"),
        "ranges": [[{"subnet": "10.77.0.0/16", "gateway": "10.77.0.1"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "podman",
        "plugins": [
            {"type": "bridge", "bridge": "podman", "isGateway": true, "ipMasq": true, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    std::fs::write(dir.join("networks/87-podman.conflist"), network.to_string()).unwrap();
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--all", "--force", "--time", "0"]);
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.namespace])
            .status();
        // What Podman has clean up after a container ends last.
        let deadline = Instant::now() + Duration::from_secs(5);
        let own = format!("/{}/", self.group);
        while !in_cgroup(&own).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for group in self.groups() {
            let _ = std::fs::remove_dir(group);
        }
        remove_cgroup(&self.group);
    }
}
