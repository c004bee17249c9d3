//! Pods of CRI-O, as far as what it says of them differs from containerd: its calls
//! and specs are replayed against the real shim.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use bulkhead_e2e::replay::{crio_bundle, fifo, gone, reader, spec, start};
use bulkhead_e2e::{PodGroup, busybox_image, in_machine};
use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, ShutdownRequest,
    StartRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use ttrpc::context::{Context, with_duration};

const MIB: u64 = 1 << 20;

fn limit() -> Context {
    with_duration(std::time::Duration::from_secs(60))
}

fn encoded(value: &Value) -> MessageField<Any> {
    MessageField::some(Any {
        value: serde_json::to_vec(value).unwrap(),
        ..Default::default()
    })
}

/// A pod, and its one container.
struct Pod {
    dir: PathBuf,
    id: String,
    address: String,
    task: TaskClient,
    execs: std::cell::Cell<u32>,
}

/// What CRI-O says of a pod or of a container in it.
fn said(kind: &str, pod: &str) -> Value {
    json!({
        "io.kubernetes.cri-o.ContainerType": kind,
        "io.kubernetes.cri-o.SandboxID": pod,
        "io.kubernetes.pod.name": "replayed",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": "uid",
    })
}

/// The options CRI-O has for a handler: `runtimeoptions.v1.Options{ConfigPath}`.
fn options(dir: &Path) -> MessageField<Any> {
    let config = dir.join("config.toml");
    std::fs::write(&config, "accelerator = \"tcg\"\nlayers_mib = 0\n").unwrap();
    let path = config.display().to_string();
    let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
    value.extend(path.as_bytes());
    MessageField::some(Any {
        type_url: "runtimeoptions.v1.Options".to_owned(),
        value,
        ..Default::default()
    })
}

impl Pod {
    /// Starts a pod below `group`, with more annotations, and a container in it that
    /// waits.
    async fn start(dir: &Path, group: &PodGroup, name: &str, more: &[(&str, &str)]) -> Self {
        let id = format!("{name}-{}", std::process::id());
        let mut own = spec(&dir.join("root"), "pause", &said("sandbox", &id));
        for (key, value) in more {
            own["annotations"][*key] = json!(value);
        }
        own["linux"]["cgroupsPath"] = json!(format!("/{}/crio-{id}", group.name()));
        let bundle = crio_bundle(dir, &id, &own);
        let address = start(&bundle, "default", &id);
        let task = TaskClient::new(Client::connect(&address).await.unwrap());
        let pod = Self {
            dir: dir.to_owned(),
            id,
            address,
            task,
            execs: 0.into(),
        };
        pod.create(&pod.id, &bundle).await.unwrap();
        pod.begin(&pod.id).await;

        let mut own = spec(&dir.join("root"), "sleep 1000", &said("container", &pod.id));
        own["linux"]["cgroupsPath"] = json!(format!("/{}/crio-{}", group.name(), pod.app()));
        let bundle = crio_bundle(dir, &pod.app(), &own);
        assert_eq!(start(&bundle, "default", &pod.app()), pod.address);
        pod.create(&pod.app(), &bundle).await.unwrap();
        pod.begin(&pod.app()).await;
        pod
    }

    fn app(&self) -> String {
        format!("app-{}", self.id)
    }

    async fn create(&self, id: &str, bundle: &Path) -> Result<(), ttrpc::Error> {
        let create = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.display().to_string(),
            options: options(&self.dir),
            ..Default::default()
        };
        self.task.create(limit(), &create).await.map(drop)
    }

    async fn begin(&self, id: &str) {
        let begin = StartRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task.start(limit(), &begin).await.unwrap();
    }

    /// Raises the container's limits.
    async fn update(&self, resources: &Value) -> Result<(), ttrpc::Error> {
        let update = UpdateTaskRequest {
            id: self.app(),
            resources: encoded(resources),
            ..Default::default()
        };
        self.task.update(limit(), &update).await.map(drop)
    }

    /// Runs a script in the container; what it says.
    async fn exec(&self, script: &str) -> String {
        self.execs.set(self.execs.get() + 1);
        let exec_id = format!("e{}", self.execs.get());
        let out = fifo(&self.dir.join(format!("{}-{exec_id}", self.id)));
        let said = reader(out.clone());
        let exec = ExecProcessRequest {
            id: self.app(),
            exec_id: exec_id.clone(),
            stdout: out,
            spec: encoded(&json!({
                "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
            })),
            ..Default::default()
        };
        self.task.exec(limit(), &exec).await.unwrap();
        let begin = StartRequest {
            id: self.app(),
            exec_id: exec_id.clone(),
            ..Default::default()
        };
        self.task.start(limit(), &begin).await.unwrap();
        let wait = WaitRequest {
            id: self.app(),
            exec_id,
            ..Default::default()
        };
        self.task.wait(limit(), &wait).await.unwrap();
        said.join().unwrap().trim().to_owned()
    }

    /// MiB of the guest, and its processors.
    async fn machine(&self) -> (u64, usize) {
        let memory = "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
        let memory = self.exec(memory).await.parse().unwrap();
        let vcpus = self.exec("grep -c ^processor /proc/cpuinfo").await;
        (memory, vcpus.parse().unwrap())
    }

    async fn kill(&self, id: &str, signal: u32) -> Result<(), ttrpc::Error> {
        let kill = KillRequest {
            id: id.to_owned(),
            signal,
            ..Default::default()
        };
        self.task.kill(limit(), &kill).await.map(drop)
    }

    /// How it ended.
    async fn wait(&self, id: &str) -> u32 {
        let wait = WaitRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task.wait(limit(), &wait).await.unwrap().exit_status
    }

    async fn end(self) {
        for id in [self.app(), self.id.clone()] {
            // It may have ended.
            let _ = self.kill(&id, 9).await;
            self.wait(&id).await;
            let delete = DeleteRequest {
                id,
                ..Default::default()
            };
            self.task.delete(limit(), &delete).await.unwrap();
        }
        let shutdown = ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..Default::default()
        };
        let _ = self.task.shutdown(limit(), &shutdown).await;
        gone(&self.address).await;
    }
}

/// CRI-O's word for a pod's limits.
const RESOURCES: &str = "io.kubernetes.cri-o.PodLinuxResources";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_crio_has_the_size_of_its_limits_and_outgrows_it() {
    if !in_machine() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    busybox_image(temp.path());
    let group = PodGroup::make(512 * MIB);
    let limits = json!({
        "cpu_period": 100_000, "cpu_quota": 100_000, "memory_limit_in_bytes": 200 * MIB,
    });
    let told = [(RESOURCES, limits.to_string())];
    let told = told.each_ref().map(|(key, value)| (*key, value.as_str()));
    let pod = Pod::start(temp.path(), &group, "crio-sized", &told).await;
    // 200 MiB and the guest's own 64, less what its kernel takes before it counts.
    let (memory, vcpus) = pod.machine().await;
    assert!((220..264).contains(&memory), "{memory} MiB");
    assert_eq!(vcpus, 1);

    // The kubelet raises the pod's limit, then the container's.
    let raised = json!({
        "memory": {"limit": 500 * MIB}, "cpu": {"quota": 200_000, "period": 100_000},
    });
    let refused = pod.update(&raised).await.unwrap_err().to_string();
    assert!(
        refused.contains("raise the pod's own limit first"),
        "{refused}"
    );
    assert_eq!(pod.machine().await, (memory, vcpus));
    group.bound(1024 * MIB);
    pod.update(&raised).await.unwrap();
    let (grown, vcpus) = pod.machine().await;
    assert!(grown > memory + 256, "{grown} MiB");
    let host = std::thread::available_parallelism().unwrap().get();
    assert_eq!(vcpus, host.min(2));
    pod.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_author_cannot_put_it_into_somebody_elses() {
    if !in_machine() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    busybox_image(dir);
    let (group, others) = (PodGroup::make(1023 * MIB), PodGroup::make(1022 * MIB));
    let victim = Pod::start(dir, &group, "crio-victim", &[]).await;

    // CRI-O writes the annotations of a pod over its own.
    let id = format!("crio-rogue-{}", std::process::id());
    let mut own = spec(&dir.join("root"), "pause", &said("container", &victim.id));
    own["linux"]["cgroupsPath"] = json!(format!("/{}/crio-{id}", others.name()));
    let bundle = crio_bundle(dir, &id, &own);
    start(&bundle, "default", &id);
    let refused = victim.create(&id, &bundle).await.unwrap_err().to_string();
    assert!(
        refused.contains("its control group is another pod's"),
        "{refused}"
    );

    assert_eq!(victim.exec("echo unharmed").await, "unharmed");
    victim.end().await;
    assert!(others.children().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn crio_is_told_who_lives_and_whose_memory_was_short() {
    if !in_machine() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    busybox_image(temp.path());
    let group = PodGroup::make(1021 * MIB);
    let pod = Pod::start(temp.path(), &group, "crio-told", &[]).await;
    // As CRI-O asks whether they live.
    for id in [pod.id.clone(), pod.app()] {
        pod.kill(&id, 0).await.unwrap();
        let refused = pod.kill(&id, 65).await.unwrap_err().to_string();
        assert!(refused.contains("no signal 65"), "{refused}");
    }
    assert_eq!(pod.exec("echo alive").await, "alive");

    let bundle = |id: &str| {
        temp.path()
            .join("overlay-containers")
            .join(id)
            .join("userdata")
    };
    let oom = bundle(&pod.app()).join("oom");
    assert!(!oom.exists());
    let limit = json!({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}});
    pod.update(&limit).await.unwrap();
    pod.exec("awk 'BEGIN { text = \"x\"; while (1) text = text text }'")
        .await;
    pod.kill(&pod.app(), 9).await.unwrap();
    assert_eq!(pod.wait(&pod.app()).await, 137);
    assert!(oom.exists());
    let ended = pod.kill(&pod.app(), 0).await.unwrap_err().to_string();
    assert!(ended.contains("already finished"), "{ended}");
    pod.end().await;
}
