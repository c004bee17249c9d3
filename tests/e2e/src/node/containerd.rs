//! The containerd of a node: whichever is first on the PATH, Debian's own or a newer
//! one.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

/// Who runs the sandbox of a pod: containerd by a task (`podsandbox`, what it does
/// by itself), or the shim by the Sandbox API (`shim`, from containerd 2 on).
const SANDBOXER: &str = "BULKHEAD_E2E_SANDBOXER";

pub(super) fn configure(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    let sandboxer = std::env::var(SANDBOXER).unwrap_or_default();
    // containerd 2.1 takes no options beside `shim`: it reads them as runc's, and
    // fails ("can't unmarshal type runtimeoptions.v1.Options"). The shim then has
    // /etc/bulkhead/config.toml.
    let kata = match sandboxer.as_str() {
        "shim" => "sandboxer = \"shim\"".to_owned(),
        _ => format!(
            r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata.options]
      ConfigPath = "{}""#,
            at("bulkhead.toml")
        ),
    };
    let text = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
# Its socket would be the same for the nodes of all tests.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
    # Every network of the directory, not the first alone.
    max_conf_num = 0
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
    runtime_type = "io.containerd.bulkhead.v2"
    {kata}
"#,
        root = at("root"),
        state = at("state"),
        socket = at("containerd.sock"),
        cni = at("cni"),
    );
    std::fs::write(dir.join("config.toml"), text).unwrap();
    // Tests see the same everywhere; whoever measures says otherwise.
    let accelerator = crate::accelerator();
    // Nor does what a container reads depend on what came before it.
    let settings = format!("accelerator = \"{accelerator}\"\nlayers_mib = 0\n");
    std::fs::write(dir.join("bulkhead.toml"), settings).unwrap();
    network(dir);
}

/// The pods' network.
pub(super) fn network(dir: &Path) {
    std::fs::create_dir(dir.join("cni")).unwrap();
    let bridge = json!({"type": "bridge", "bridge": "pods", "isGateway": true});
    write_network(dir, "pods", bridge, 88, &["0.0.0.0/0", "::/0"]);
}

/// Another beside it, by a plugin with its settings, for what is not the default
/// route's.
pub(super) fn second_network(dir: &Path, plugin: Value) {
    write_network(dir, "second", plugin, 99, &[]);
}

fn write_network(dir: &Path, name: &str, mut plugin: Value, number: u8, routes: &[&str]) {
    let routes: Vec<_> = routes.iter().map(|dst| json!({"dst": dst})).collect();
    plugin["mtu"] = 1400.into();
    plugin["ipam"] = json!({
        "type": "host-local",
        "dataDir": dir.join("ipam"),
        "ranges": [
            [{"subnet": format!("10.{number}.0.0/16")}],
            [{"subnet": format!("fd00:{number}::/64")}],
        ],
        "routes": routes,
    });
    let network = json!({"cniVersion": "0.4.0", "name": name, "plugins": [plugin]});
    let file = dir.join(format!("cni/{number}-{name}.conflist"));
    std::fs::write(file, network.to_string()).unwrap();
}

pub(super) fn spawn(dir: &Path, namespace: &str) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let programs = crate::program().parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}:/usr/sbin:/sbin", programs.display());
    // Not `ip netns exec`, which hides the cgroups. The mounts of the pods end
    // with their namespace, however containerd ends.
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["unshare", "--mount", "--propagation", "slave"])
        .args(["containerd", "--config"])
        .arg(dir.join("config.toml"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("nsenter is there: `apt install util-linux`")
}

/// A connection that is made when it is used.
pub(super) fn channel(dir: &Path) -> Channel {
    let address = format!("unix://{}", dir.join("containerd.sock").display());
    Endpoint::from_shared(address).unwrap().connect_lazy()
}
