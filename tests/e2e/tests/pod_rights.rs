//! What processes of a pod may do to its kernel: system calls, capabilities,
//! users. What needs no call of our own shim passes with runc too
//! (`BULKHEAD_E2E_HANDLER=runc`), whose shim here speaks an older version.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bulkhead_e2e::cri::security_profile::ProfileType;
use bulkhead_e2e::cri::{Capability, ContainerConfig, SecurityProfile};
use bulkhead_e2e::replay::{Shim, fifo, limit, reader};
use bulkhead_e2e::{Container, Node, Pod, in_machine};
use containerd_shim_protos::api::ExecProcessRequest;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

/// Filters of this process and of the container's first.
const FILTERS: &str = "grep -h '^Seccomp:' /proc/1/status /proc/self/status";

fn filtered(kind: ProfileType, file: &str) -> impl FnOnce(&mut ContainerConfig) + use<> {
    let profile = SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: file.to_owned(),
    };
    move |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().seccomp = Some(profile);
    }
}

/// Nothing of the node's configuration is set for it.
#[tokio::test]
async fn the_default_filter_holds_in_the_pods_own_kernel() {
    let node = Node::start().await;
    let pod = node.pod("filtered").await;
    let start = async |name, kind, file: &str| {
        let container = pod.start_with(name, "sleep 1000", filtered(kind, file));
        container.await.unwrap()
    };
    let own = start("default", ProfileType::RuntimeDefault, "").await;
    let seen = own.exec(FILTERS).await.out;
    assert_eq!(seen, "Seccomp:\t2\nSeccomp:\t2");
    // A call nobody needs but to look for holes, and one everybody needs.
    let seen = own.exec("unshare -U true; mkdir /x && echo made").await;
    assert!(seen.err.contains("Operation not permitted"), "{seen:?}");
    assert_eq!(seen.out, "made");

    let profile = node.path().join("no-mkdir.json");
    let rules = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    std::fs::write(&profile, rules.to_string()).unwrap();
    let profile = profile.display().to_string();
    let own = start("own", ProfileType::Localhost, &profile).await;
    assert_eq!(own.exec(FILTERS).await.out, "Seccomp:\t2\nSeccomp:\t2");
    let seen = own.exec("mkdir /x || echo not made").await;
    assert_eq!(seen.out, "not made");

    let open = start("open", ProfileType::Unconfined, "").await;
    assert_eq!(open.exec(FILTERS).await.out, "Seccomp:\t0\nSeccomp:\t0");
    pod.remove().await.unwrap();
}

/// Executes a process as it is described, as containerd asks its shim to; what
/// it said and its exit code.
async fn execute(pod: &Pod<'_>, app: &Container<'_>, name: &str, process: &Value) -> (String, u32) {
    let shim = Shim::at(pod.shim_address()).await;
    let stdout = fifo(&pod.node().path().join(name));
    let said = reader(stdout.clone());
    let request = ExecProcessRequest {
        id: app.id.clone(),
        exec_id: name.to_owned(),
        stdout,
        spec: MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: serde_json::to_vec(process).unwrap(),
            ..Default::default()
        }),
        ..Default::default()
    };
    shim.task.exec(limit(), &request).await.unwrap();
    shim.begin(&app.id, name).await;
    let code = shim.wait(&app.id, name).await;
    shim.delete(&app.id, name).await;
    (said.join().unwrap().trim_end().to_owned(), code)
}

/// A process of a shell script with these capabilities and nothing else.
fn process(script: &str, user: &Value, capabilities: &[&str]) -> Value {
    json!({
        "args": ["/bin/sh", "-c", script], "cwd": "/home", "env": ["PATH=/bin", "A=b"],
        "user": user,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            "inheritable": capabilities, "ambient": capabilities,
        },
        "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 78}],
    })
}

#[tokio::test]
async fn a_further_process_has_its_own_user_capabilities_and_limits() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("further").await;
    // The container itself has no right at all.
    let none = |config: &mut ContainerConfig| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().capabilities = Some(Capability {
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
    };
    let app = pod.start_with("app", "sleep 1000", none).await.unwrap();
    let give = "touch /tmp/file; chown 5:6 /tmp/file && stat -c %u:%g /tmp/file";
    assert_ne!(app.exec(give).await.code, 0);
    let root = json!({"uid": 0, "gid": 0});

    // Another right than the container's, used, and none beside it.
    let own = process(give, &root, &["CAP_CHOWN"]);
    assert_eq!(execute(&pod, &app, "giver", &own).await, ("5:6".into(), 0));
    let own = process(give, &root, &[]);
    assert_eq!(execute(&pod, &app, "taker", &own).await.1, 1);

    let look = "id -u; id -g; id -G; pwd; echo $A; ulimit -n; ulimit -Hn; \
                grep -hE '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status; exit 9";
    let user = json!({"uid": 33, "gid": 34, "additionalGids": [50, 1234]});
    let own = process(look, &user, &["CAP_NET_BIND_SERVICE"]);
    let (said, code) = execute(&pod, &app, "web", &own).await;
    let expected = "33\n34\n34 50 1234\n/home\nb\n77\n78\n\
                    CapPrm:\t0000000000000400\nCapEff:\t0000000000000400\n\
                    CapBnd:\t0000000000000400\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1";
    assert_eq!((said.as_str(), code), (expected, 9));

    // The container's first process is what it was.
    let seen = app.exec("grep -h CapEff /proc/1/status; id -u").await.out;
    assert_eq!(seen, "CapEff:\t0000000000000000\n0");
    pod.remove().await.unwrap();
}
