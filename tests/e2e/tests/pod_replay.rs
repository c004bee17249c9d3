//! Calls of container managers that are not installed here, replayed against the
//! real shim: CRI-O's, as its internal/oci/runtime_vm.go makes them, and
//! containerd 2's Sandbox API.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};

use bulkhead_e2e::replay::{
    Shim, creation, crio_annotations, crio_bundle, encoded, fifo, gone, limit, reader, spec, start,
};
use bulkhead_e2e::{OWN_GROUP, busybox_image, in_machine};
use containerd_shim_protos::api::{
    CreateTaskRequest, StartRequest, StateRequest, UpdateTaskRequest,
};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest,
    SandboxStatusRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};

/// The first line a pipe says.
fn first_line(path: String) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut line = String::new();
        let file = std::fs::File::open(path).unwrap();
        BufReader::new(file).read_line(&mut line).unwrap();
        line
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn crios_calls_run_a_pod() {
    if !in_machine() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    busybox_image(dir);
    let root = dir.join("root");
    let pod = format!("crio-pod-{}", std::process::id());
    let app = format!("crio-app-{}", std::process::id());
    let kind = |kind: &str| {
        let mut all = crio_annotations(kind, &pod);
        all["io.kubernetes.cri-o.KubeName"] = json!("replayed");
        all["io.kubernetes.cri-o.Namespace"] = json!("default");
        all["io.kubernetes.container.name"] = json!("app");
        all["io.kubernetes.cri-o.LogPath"] = json!(dir.join("app.log"));
        all
    };
    let bundle = crio_bundle(dir, &pod, &spec(&root, "pause", &kind("sandbox")));
    let shim = Shim::start(&bundle, &pod).await;
    let task = &shim.task;
    let create = creation(dir, &pod, &bundle);
    let created = task.create(limit(), &create).await.unwrap();
    assert!(created.pid > 0);
    shim.begin(&pod, "").await;

    // A container: its own `start` answers the pod's address.
    let script = "echo said; sleep 1000";
    let mut member = spec(&root, script, &kind("container"));
    member["linux"]["resources"]["pids"] = json!({"limit": 30});
    let groups = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
    member["mounts"].as_array_mut().unwrap().push(groups);
    let bundle = crio_bundle(dir, &app, &member);
    assert_eq!(start(&bundle, "default", &app), shim.address);
    let out = fifo(&bundle.join("stdout"));
    let err = fifo(&bundle.join("stderr"));
    let said = reader(out.clone());
    let complained = reader(err.clone());
    let create = CreateTaskRequest {
        id: app.clone(),
        bundle: bundle.display().to_string(),
        stdout: out,
        stderr: err,
        ..Default::default()
    };
    task.create(limit(), &create).await.unwrap();
    shim.begin(&app, "").await;
    let state = StateRequest {
        id: app.clone(),
        ..Default::default()
    };
    let state = task.state(limit(), &state).await.unwrap();
    assert_eq!(format!("{:?}", state.status), "RUNNING");

    // Limits: what is known is taken, what is not is refused by name. The one on
    // processes is from its creation.
    let update = |value: Value| UpdateTaskRequest {
        id: app.clone(),
        resources: encoded(&value),
        ..Default::default()
    };
    let memory = json!({"memory": {"limit": 64 << 20}});
    task.update(limit(), &update(memory)).await.unwrap();
    let rules = json!({"devices": [{"allow": true, "access": "rwm"}]});
    let refused = task.update(limit(), &update(rules)).await.unwrap_err();
    assert!(refused.to_string().contains("`devices`"), "{refused}");

    // An exec, as CRI-O's ExecSync has it.
    let out = fifo(&bundle.join("exec"));
    let executed = reader(out.clone());
    let script = format!("cd {OWN_GROUP}; cat pids.max memory.max; hostname; exit 4");
    shim.exec(&app, "e1", &script, out).await;
    assert_eq!(shim.wait(&app, "e1").await, 4);
    shim.delete(&app, "e1").await;
    let limits = format!("30\n{}\nreplayed\n", 64 << 20);
    assert_eq!(executed.join().unwrap(), limits);

    // The end, in CRI-O's order.
    shim.kill(&app, 9, true).await.unwrap();
    assert_eq!(shim.wait(&app, "").await, 137);
    shim.delete(&app, "").await;
    assert_eq!(said.join().unwrap(), "said\n");
    assert_eq!(complained.join().unwrap(), "");
    shim.kill(&pod, 9, true).await.unwrap();
    shim.wait(&pod, "").await;
    shim.delete(&pod, "").await;
    shim.shut_down(&pod).await;
}

/// `PodSandboxConfig{metadata{name, uid, namespace}, hostname}`, encoded.
fn pod_config() -> Vec<u8> {
    let metadata = b"\x0a\x03web\x12\x02u1\x1a\x07default";
    let mut bytes = vec![0x0a, u8::try_from(metadata.len()).unwrap()];
    bytes.extend(metadata);
    bytes.extend(b"\x12\x04host");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_api_runs_a_pod() {
    if !in_machine() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    busybox_image(dir);
    let id = format!("sandbox-{}", std::process::id());
    // containerd 2 writes no spec into the bundle of a sandbox.
    let bundle = dir.join(&id);
    std::fs::create_dir(&bundle).unwrap();
    let address = start(&bundle, "k8s.io", &id);
    let client = Client::connect(&address).await.unwrap();
    let sandbox = SandboxClient::new(client.clone());
    let platform = PlatformRequest::new();
    let platform = sandbox.platform(limit(), &platform).await.unwrap();
    assert_eq!(platform.platform.os, "linux");

    let create = CreateSandboxRequest {
        sandbox_id: id.clone(),
        bundle_path: bundle.display().to_string(),
        options: MessageField::some(Any {
            type_url: "runtime.v1.PodSandboxConfig".to_owned(),
            value: pod_config(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut nobody = create.clone();
    nobody.sandbox_id = "other".to_owned();
    assert!(sandbox.create_sandbox(limit(), &nobody).await.is_err());
    sandbox.create_sandbox(limit(), &create).await.unwrap();
    let again = sandbox.create_sandbox(limit(), &create).await.unwrap_err();
    assert!(again.to_string().contains("exists"), "{again}");
    let start = StartSandboxRequest {
        sandbox_id: id.clone(),
        ..Default::default()
    };
    assert!(sandbox.start_sandbox(limit(), &start).await.unwrap().pid > 0);
    let ping = PingRequest {
        sandbox_id: id.clone(),
        ..Default::default()
    };
    sandbox.ping_sandbox(limit(), &ping).await.unwrap();

    // A container in it, by the Task API of the same connection.
    let app = format!("member-{}", std::process::id());
    let annotations = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": id,
        "io.kubernetes.cri.container-name": "app",
    });
    let member = dir.join(&app);
    std::fs::create_dir(&member).unwrap();
    let own = spec(&dir.join("root"), "hostname; sleep 1000", &annotations);
    std::fs::write(member.join("config.json"), own.to_string()).unwrap();
    let out = fifo(&member.join("stdout"));
    let said = first_line(out.clone());
    let task = TaskClient::new(client);
    let create = CreateTaskRequest {
        id: app.clone(),
        bundle: member.display().to_string(),
        stdout: out,
        ..Default::default()
    };
    task.create(limit(), &create).await.unwrap();
    let begin = StartRequest {
        id: app.clone(),
        ..Default::default()
    };
    task.start(limit(), &begin).await.unwrap();
    assert_eq!(said.join().unwrap(), "host\n");

    let status = SandboxStatusRequest {
        sandbox_id: id.clone(),
        verbose: true,
        ..Default::default()
    };
    let seen = sandbox.sandbox_status(limit(), &status).await.unwrap();
    assert_eq!(seen.state, "SANDBOX_READY");
    assert!(seen.created_at.seconds > 0 && seen.exited_at.is_none());
    let began = seen.created_at.seconds;
    let info: Value = serde_json::from_str(&seen.info["bulkhead"]).unwrap();
    assert_eq!(info["kubernetes"]["uid"], "u1");
    assert_eq!(info["containers"][0]["name"], "app");
    let metrics = SandboxMetricsRequest {
        sandbox_id: id.clone(),
        ..Default::default()
    };
    let seen = sandbox.sandbox_metrics(limit(), &metrics).await.unwrap();
    assert_eq!(seen.metrics.id, id);
    assert!(seen.metrics.timestamp.seconds > 0);
    assert_eq!(
        seen.metrics.data.type_url,
        "io.containerd.cgroups.v2.Metrics"
    );
    let used = Metrics::parse_from_bytes(&seen.metrics.data.value).unwrap();
    assert!(used.pids.current >= 1 && used.memory.usage > 0, "{used}");
    assert!(used.cpu.usage_usec > 0, "{used}");

    let stop = StopSandboxRequest {
        sandbox_id: id.clone(),
        timeout_secs: 10,
        ..Default::default()
    };
    sandbox.stop_sandbox(limit(), &stop).await.unwrap();
    sandbox.stop_sandbox(limit(), &stop).await.unwrap();
    let wait = WaitSandboxRequest {
        sandbox_id: id.clone(),
        ..Default::default()
    };
    let ended = sandbox.wait_sandbox(limit(), &wait).await.unwrap();
    assert_eq!(ended.exit_status, 128 + 15);
    let seen = sandbox.sandbox_status(limit(), &status).await.unwrap();
    assert_eq!(seen.state, "SANDBOX_NOTREADY");
    assert!(seen.exited_at.seconds >= began);
    assert_eq!(seen.exited_at, ended.exited_at);
    assert!(sandbox.ping_sandbox(limit(), &ping).await.is_err());
    let shutdown = ShutdownSandboxRequest {
        sandbox_id: id.clone(),
        ..Default::default()
    };
    let _ = sandbox.shutdown_sandbox(limit(), &shutdown).await;
    gone(&address).await;
}
