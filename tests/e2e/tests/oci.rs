//! The verbs of an OCI runtime, by hand: a bundle, and whatever is wrong with one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bulkhead_e2e::{
    Answer, OCI, PODS, arguments, busybox_image, in_cgroup, next, nothing_is_left, processes,
    program, soon, tool,
};
use serde_json::{Value, json};

/// Where containers have their directories, and their machines theirs.
const PLACES: [&str; 2] = [OCI, PODS];

/// A bundle, and the containers made of it.
struct Bundle {
    dir: tempfile::TempDir,
    prefix: String,
}

impl Bundle {
    fn new(script: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bundle = Self {
            dir,
            prefix: format!("oci{}-{number}", std::process::id()),
        };
        busybox_image(bundle.path());
        std::fs::rename(bundle.path().join("root"), bundle.path().join("rootfs")).unwrap();
        std::fs::write(bundle.path().join("machine"), "accelerator = \"tcg\"\n").unwrap();
        bundle.write(&bundle.spec(script));
        bundle
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn spec(&self, script: &str) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin"],
            },
            "root": {"path": "rootfs"},
            "annotations": {"color": "red"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": format!("/{}/own", self.prefix),
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "mount"},
                ],
            },
        })
    }

    fn write(&self, spec: &Value) {
        std::fs::write(self.path().join("config.json"), spec.to_string()).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        let config = self.path().join("machine");
        command.arg("--machine-config").arg(config).args(words);
        command.stdin(Stdio::null());
        command
    }

    fn bulkhead(&self, words: &[&str]) -> Answer {
        Answer::of(&mut self.command(words))
    }

    fn create(&self, id: &str) -> Answer {
        let dir = self.path().display().to_string();
        // Its own streams: a container holds those it is made with.
        let mut command = self.command(&["create", "--bundle", &dir, "--pid-file"]);
        command.arg(self.path().join("pid")).arg(id);
        let path = self.path().join(match self.path().join("log").exists() {
            true => "log-of-another",
            false => "log",
        });
        let log = std::fs::File::create(&path).unwrap();
        let output = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let code = output.unwrap().wait().unwrap().code().unwrap();
        Answer {
            code,
            out: String::new(),
            err: std::fs::read_to_string(path).unwrap(),
        }
    }

    /// The network namespace of its container, for nsenter(1).
    fn namespace(&self) -> String {
        let pid = std::fs::read_to_string(self.path().join("pid")).unwrap();
        format!("--net=/proc/{pid}/ns/net")
    }

    /// What its first container has written.
    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    fn status(&self, id: &str) -> String {
        let answer = self.bulkhead(&["state", id]);
        let state: Value = serde_json::from_str(&answer.out).unwrap_or_default();
        state["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for a container's end.
    fn ends(&self, id: &str) {
        soon("it has ended", || self.status(id) == "stopped");
    }

    /// What is left on the host of anything made of this bundle.
    fn left(&self) -> Vec<String> {
        let named = processes(|line| line.contains(&self.prefix));
        let pids = named.into_iter().chain(in_cgroup(&self.prefix));
        let mut left: Vec<_> = pids.map(|pid| arguments(pid).join(" ")).collect();
        for place in PLACES {
            for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
                let read = |file| std::fs::read_to_string(entry.path().join(file));
                let group = read("cgroup").unwrap_or_default();
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(&self.prefix) || group.contains(&self.prefix) {
                    left.push(entry.path().display().to_string());
                }
            }
        }
        left
    }

    fn leaves_nothing(&self) {
        nothing_is_left(Duration::from_secs(10), || self.left());
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for place in std::fs::read_dir(PLACES[0]).into_iter().flatten().flatten() {
            let id = place.file_name().to_string_lossy().into_owned();
            if id.starts_with(&self.prefix) {
                let _ = self.bulkhead(&["delete", "--force", &id]);
            }
        }
        bulkhead_e2e::remove_cgroup(&self.prefix);
    }
}

#[test]
fn a_container_goes_through_the_states_of_the_spec() {
    let bundle = Bundle::new("echo out; uname -r > /kernel; exec sleep 1000");
    let id = bundle.prefix.as_str();
    let created = bundle.create(id);
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(bundle.status(id), "created");
    assert!(!bundle.path().join("rootfs/kernel").exists());
    let again = bundle.create(id);
    assert!(again.err.contains("exists"), "{again:?}");

    let state = bundle.bulkhead(&["state", id]);
    let state: Value = serde_json::from_str(&state.out).unwrap();
    let pid = std::fs::read_to_string(bundle.path().join("pid")).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(state["id"], id);
    assert_eq!(state["annotations"]["color"], "red");
    assert_eq!(state["bundle"], bundle.path().display().to_string());

    assert_eq!(bundle.bulkhead(&["start", id]).code, 0);
    assert_eq!(bundle.status(id), "running");
    let twice = bundle.bulkhead(&["start", id]);
    assert!(twice.err.contains("started before"), "{twice:?}");
    let early = bundle.bulkhead(&["delete", id]);
    assert!(early.err.contains("is running"), "{early:?}");
    let listed = bundle.bulkhead(&["list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let own = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["id"] == id);
    assert_eq!(own.unwrap()["status"], "running");

    assert_eq!(bundle.bulkhead(&["pause", id]).code, 0);
    assert_eq!(bundle.status(id), "paused");
    assert_eq!(bundle.bulkhead(&["resume", id]).code, 0);

    let process = bundle.path().join("process");
    let spec = json!({
        "args": ["/bin/sh", "-c", "until test -s /kernel; do sleep 0.1; done; exit 9"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
    });
    std::fs::write(&process, spec.to_string()).unwrap();
    let process = process.display().to_string();
    let executed = bundle.bulkhead(&["exec", "--process", &process, id]);
    assert_eq!(executed.code, 9, "{executed:?}");

    assert_eq!(bundle.bulkhead(&["kill", id, "KILL"]).code, 0);
    bundle.ends(id);
    let late = bundle.bulkhead(&["kill", id, "15"]);
    // Its machine may still be ending.
    let over = ["is stopped", "already finished"];
    assert!(over.iter().any(|text| late.err.contains(text)), "{late:?}");
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 0);
    let gone = bundle.bulkhead(&["state", id]);
    assert!(gone.err.contains("there is no container"), "{gone:?}");
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 125);
    assert_eq!(bundle.bulkhead(&["delete", "--force", id]).code, 0);

    // Its maker's directory has what it wrote, and nothing else new.
    let kernel = std::fs::read_to_string(bundle.path().join("rootfs/kernel")).unwrap();
    assert!(kernel.contains("bulkhead"), "{kernel}");
    assert!(!bundle.path().join("rootfs/etc/resolv.conf").exists());
    let log = bundle.log();
    assert_eq!(log, "out\n");
    bundle.leaves_nothing();
}

#[test]
fn a_bundle_that_cannot_be_run_is_refused_by_name() {
    let bundle = Bundle::new("true");
    let id = bundle.prefix.as_str();
    let good = bundle.spec("true");
    let refused = |spec: &Value, text: &str| {
        bundle.write(spec);
        let answer = bundle.create(id);
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(answer.err.contains(text), "{text}: {answer:?}");
        bundle.leaves_nothing();
    };
    let with = |pointer: &str, value: Value| {
        let mut spec = good.clone();
        *spec.pointer_mut(pointer).unwrap() = value;
        spec
    };
    refused(&json!([1, 2]), "--network=host");
    refused(&with("/linux/namespaces", json!([])), "--network=host");
    refused(
        &with("/process/args", json!(["/nowhere"])),
        "no such file or directory",
    );
    refused(&with("/process/args", json!([])), "command is empty");
    refused(&with("/root/path", json!("nowhere")), "nowhere");
    refused(
        &with("/linux/cgroupsPath", json!("/a/../../b")),
        "control group",
    );
    let hook = json!({"createContainer": [{"path": "/bin/true"}]});
    let mut hooked = good.clone();
    hooked["hooks"] = hook;
    refused(&hooked, "OCI hooks");
    hooked["hooks"] = json!({"prestart": [
        {"path": "/bin/sh", "args": ["sh", "-c", "echo not today >&2; exit 3"]},
    ]});
    refused(&hooked, "not today");
    let mut terminal = good.clone();
    terminal["process"]["terminal"] = true.into();
    refused(&terminal, "--console-socket");
    let mut spoofed = good.clone();
    spoofed["annotations"] = json!({
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.SandboxID": "victim",
    });
    bundle.write(&spoofed);
    assert_eq!(bundle.create(id).code, 0);
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 0);

    // Nobody can be told of it.
    let dir = bundle.path().display().to_string();
    let words = ["create", "--bundle", &dir, "--pid-file", "/nowhere/pid", id];
    let mut untold = bundle.command(&words);
    untold.stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(untold.status().unwrap().code(), Some(125));
    bundle.leaves_nothing();

    std::fs::write(bundle.path().join("config.json"), "{").unwrap();
    assert!(bundle.create(id).err.contains("config.json"));
    std::fs::remove_file(bundle.path().join("config.json")).unwrap();
    assert!(bundle.create(id).err.contains("config.json"));
    for id in ["../up", "a/b", "", "-x"] {
        let words = ["state", "--", id];
        assert_ne!(bundle.bulkhead(&words).code, 0, "{id:?}");
    }
    bundle.leaves_nothing();
}

/// `create`, killed at some moment.
fn killed(mut create: Child, after: Duration) {
    std::thread::sleep(after);
    let _ = create.kill();
    let _ = create.wait();
}

#[test]
fn a_creator_killed_at_any_moment_leaves_nothing() {
    let bundle = Bundle::new("sleep 1000");
    let dir = bundle.path().display().to_string();
    let mut seed = 16;
    for round in 0..30 {
        let id = format!("{}-{round}", bundle.prefix);
        let mut create = bundle.command(&["create", "--bundle", &dir, &id]);
        create.stdout(Stdio::null()).stderr(Stdio::null());
        let after = Duration::from_millis(next(&mut seed) % 1500);
        killed(create.spawn().unwrap(), after);
        let deleted = bundle.bulkhead(&["delete", "--force", &id]);
        assert_eq!(deleted.code, 0, "{after:?}: {deleted:?}");
        println!("{id} {after:?} {deleted:?}");
        bundle.leaves_nothing();
    }
}

#[test]
fn an_error_is_written_where_the_caller_looks() {
    let bundle = Bundle::new("true");
    let log = bundle.path().join("errors").display().to_string();
    let words = ["--log", &log, "--log-format", "json", "start", "nobody"];
    assert_eq!(bundle.bulkhead(&words).code, 125);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("nobody"));
}

/// Podman 5 makes such a `/dev` for `--read-only --read-only-tmpfs=false`.
#[test]
fn a_dev_that_is_only_read_has_what_belongs_there() {
    let bundle = Bundle::new("true");
    let id = bundle.prefix.as_str();
    let mut spec = bundle.spec("echo | tee /dev/null; ls -d /dev/pts; echo > /dev/x; sleep 1000");
    spec["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "ro"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
    ]);
    bundle.write(&spec);
    let created = bundle.create(id);
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(bundle.bulkhead(&["start", id]).code, 0);
    // Two streams: in any order.
    let said = ["/dev/pts\n", "can't create /dev/x: Read-only file system"];
    soon("it has tried all", || {
        said.iter().all(|text| bundle.log().contains(text))
    });
    assert_eq!(bundle.bulkhead(&["delete", "--force", id]).code, 0);
    bundle.leaves_nothing();
}

/// As docker has it from 28 on.
#[test]
fn networks_that_come_after_the_machine_are_joined_at_its_start() {
    let script = "ip -o addr; ip -o link; ip route; echo all; exec sleep 1000";
    let bundle = Bundle::new(script);
    let id = bundle.prefix.as_str();
    assert_eq!(bundle.create(id).code, 0);
    let inside = bundle.namespace();
    cable(
        &inside,
        "given",
        "address 02:11:22:33:44:55 mtu 1400",
        "10.9.8.7/24",
    );
    cable(&inside, "second", "", "fd00:9::7/64");
    tool(
        "nsenter",
        &[
            &inside,
            "ip",
            "route",
            "add",
            "10.77.0.0/16",
            "via",
            "10.9.8.1",
        ],
    );
    assert_eq!(bundle.bulkhead(&["start", id]).code, 0);
    soon("it has looked at its networks", || {
        bundle.log().contains("all\n")
    });
    for fact in [
        "given    inet 10.9.8.7/24",
        "second    inet6 fd00:9::7/64",
        "link/ether 02:11:22:33:44:55",
        "mtu 1400",
        "10.77.0.0/16 via 10.9.8.1 dev given",
    ] {
        assert!(bundle.log().contains(fact), "{fact}: {}", bundle.log());
    }
    assert_eq!(bundle.bulkhead(&["kill", id, "KILL"]).code, 0);
    bundle.ends(id);
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 0);
    bundle.leaves_nothing();
}

#[test]
fn more_networks_than_a_machine_has_places_for_are_refused_aloud() {
    let bundle = Bundle::new("sleep 1000");
    let id = bundle.prefix.as_str();
    assert_eq!(bundle.create(id).code, 0);
    for (name, address) in [
        ("one", "10.9.1.7/24"),
        ("two", "10.9.2.7/24"),
        ("three", "10.9.3.7/24"),
    ] {
        cable(&bundle.namespace(), name, "", address);
    }
    let refused = bundle.bulkhead(&["start", id]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.err.contains("3 interfaces"), "{refused:?}");
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 0);
    bundle.leaves_nothing();
}

/// Gives a network namespace an interface with an address, and what is at its other end.
fn cable(namespace: &str, name: &str, options: &str, address: &str) {
    let give = format!(
        "ip link set lo up && ip link add name {name} {options} type veth peer name {name}-end && \
         ip link set {name}-end up && ip link set {name} up && \
         ip addr add {address} dev {name}"
    );
    tool("nsenter", &[namespace, "sh", "-c", &give]);
}

/// A hook that keeps what it is told, and another that gives the container a network
/// before it has a machine, as docker's does.
#[test]
fn hooks_of_the_host_run_beside_the_container() {
    let bundle = Bundle::new("ip -o addr show dev given; exec sleep 1000");
    let id = bundle.prefix.as_str();
    let at = |name: &str| bundle.path().join(name).display().to_string();
    let keep = |name: &str| {
        let script = format!("cat > {}", at(name));
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
    };
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' {}); \
         in=\"nsenter --net=/proc/$pid/ns/net\"; \
         $in ip link add given type veth peer name other && $in ip link set other up && \
         $in ip link set given up && $in ip addr add 10.9.8.7/24 dev given",
        at("created")
    );
    let path = ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"];
    let network = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": path});
    let mut spec = bundle.spec("ip -o addr show dev given; exec sleep 1000");
    spec["hooks"] = json!({
        "createRuntime": [network],
        "prestart": [keep("created")],
        "poststart": [keep("started"), {"path": "/bin/false"}],
        "poststop": [keep("stopped")],
    });
    bundle.write(&spec);
    let created = bundle.create(id);
    assert_eq!(created.code, 0, "{created:?}");
    assert!(!bundle.path().join("started").exists());
    assert_eq!(bundle.bulkhead(&["start", id]).code, 0);
    let told = |name: &str| -> Value {
        let text = std::fs::read_to_string(bundle.path().join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(told("created")["status"], "creating");
    assert_eq!(told("started")["status"], "running");
    assert_eq!(told("started")["id"], id);
    // What stands for the container is in that network, too.
    let pid = std::fs::read_to_string(bundle.path().join("pid")).unwrap();
    let namespace = format!("--net=/proc/{pid}/ns/net");
    tool(
        "nsenter",
        &[&namespace, "ip", "link", "show", "dev", "given"],
    );
    soon("its network is told", || {
        bundle.log().contains("10.9.8.7/24")
    });
    assert_eq!(bundle.bulkhead(&["kill", id, "KILL"]).code, 0);
    bundle.ends(id);
    assert_eq!(bundle.bulkhead(&["delete", id]).code, 0);
    assert_eq!(told("stopped")["status"], "stopped");
    bundle.leaves_nothing();
}
