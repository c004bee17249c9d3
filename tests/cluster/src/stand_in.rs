//! What a cluster has and the test API server has not: a node, the programs in
//! their pods, and a kubelet's word.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::Error;

/// The node's name.
const NODE: &str = "stand-in-1";
const MACHINE: &str = "0123456789abcdef0123456789abcdef";

/// A server, a node and programs; all end with this.
#[derive(Debug)]
pub(crate) struct StandIn {
    dir: tempfile::TempDir,
    programs: Vec<Child>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// A program beside this one.
fn beside(name: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::local(name))?;
    // Tests are one directory further down.
    let places = [own.with_file_name(name), own.join("../..").join(name)];
    let found = places.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        let text = format!(
            "`{}` is not there: cargo xtask e2e-cluster",
            places[0].display()
        );
        Error::Unsuitable(text)
    })
}

impl StandIn {
    /// Starts the server, and gives a client of it.
    pub(crate) async fn start() -> Result<(Self, Client), Error> {
        let name = "bulkhead-apiserver";
        let mut server = Command::new(beside(name)?);
        let server = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut server = server.map_err(Error::local(name))?;
        let mut url = String::new();
        if let Some(out) = server.stdout.take() {
            let read = BufReader::new(out).read_line(&mut url);
            read.map_err(Error::local(name))?;
        }
        let dir = tempfile::tempdir().map_err(Error::local("a directory"))?;
        let own = Self {
            dir,
            programs: vec![server],
        };
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": { "server": url.trim() } }],
            "users": [{ "name": "it", "user": {} }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        });
        own.write("kubeconfig", &kubeconfig.to_string(), 0o600)?;
        machine(&own)?;
        let file = Kubeconfig::read_from(own.at("kubeconfig"));
        let file = file.map_err(|error| Error::Kubeconfig(error.into()))?;
        let config = Config::from_custom_kubeconfig(file, &Default::default()).await;
        let config = config.map_err(|error| Error::Kubeconfig(error.into()))?;
        let client = Client::try_from(config).map_err(Error::api("be a client"))?;
        let nodes: Api<Node> = Api::all(client.clone());
        let node = serde_json::from_value(node()).map_err(Error::local(NODE))?;
        let made = nodes.create(&PostParams::default(), &node).await;
        made.map_err(Error::api("make a node"))?;
        Ok((own, client))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), Error> {
        let path = self.at(name);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let written = std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)));
        written.map_err(Error::local(path.display().to_string()))
    }

    /// Runs the operator and the node's agent, as their pods would.
    pub(crate) fn run_programs(&mut self) -> Result<(), Error> {
        let text = |name: &str| self.at(name).display().to_string();
        let agent = [
            ["--node-name", NODE],
            ["--payload-release", env!("CARGO_PKG_VERSION")],
            ["--runtime-version", "1.6"],
            ["--host-root", &text("host")],
            ["--payload", &text("payload")],
            ["--restart-with", &text("restart")],
        ];
        let mut agent = agent.concat();
        agent.push("--allow-emulation");
        let operator = ["run", "--metrics-address", "127.0.0.1:0"];
        for (name, args) in [
            ("bulkhead-operator", &operator[..]),
            ("bulkhead-node-agent", &agent),
        ] {
            let started = Command::new(beside(name)?)
                .args(args)
                .env("KUBECONFIG", self.at("kubeconfig"))
                .env("RUST_LOG", "warn")
                .stdin(Stdio::null())
                .spawn();
            self.programs.push(started.map_err(Error::local(name))?);
        }
        Ok(())
    }

    /// Ends those programs, not the server.
    pub(crate) fn end_programs(&mut self) {
        for mut program in self.programs.drain(1..) {
            let _ = program.kill();
            let _ = program.wait();
        }
    }

    /// Says of a pod what a kubelet would.
    pub(crate) async fn runs(&self, pods: &Api<Pod>, name: &str) -> Result<(), Error> {
        let patch = Patch::Merge(json!({ "status": { "phase": "Running" } }));
        let params = PatchParams::default();
        let told = pods.patch_status(name, &params, &patch).await;
        told.map_err(Error::api("write a pod's status"))?;
        Ok(())
    }

    /// The node pods are bound to.
    pub(crate) fn node(&self) -> &'static str {
        NODE
    }
}

/// A machine with a containerd and something to install, as far as files go.
fn machine(own: &StandIn) -> Result<(), Error> {
    let config = "version = 2\n# the administrator's\n";
    for (name, text, mode) in [
        ("host/etc/machine-id", MACHINE, 0o444),
        ("host/etc/containerd/config.toml", config, 0o640),
        ("host/usr/bin/qemu-system-x86_64", "", 0o755),
        ("host/usr/sbin/mke2fs", "", 0o755),
        ("host/opt/.keep", "", 0o644),
        ("payload/guest/guests/tuned-1/kernel", "kernel", 0o644),
        ("payload/guest/guests/tuned-1/initramfs", "initramfs", 0o644),
        ("payload/guest/guests/tuned-1/manifest.json", "{}", 0o644),
        ("payload/bulkhead", "bulkhead", 0o755),
        ("payload/containerd-shim-bulkhead-v2", "shim", 0o755),
        ("restart", "#!/bin/sh\n", 0o755),
    ] {
        own.write(name, text, mode)?;
    }
    Ok(())
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "status": {
            "nodeInfo": {
                "machineID": MACHINE, "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "containerd://1.6.20", "kernelVersion": "6.1",
                "kubeProxyVersion": "", "kubeletVersion": "v1.29.0", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "",
            },
            "conditions": [{ "type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        },
    })
}
