//! Pods of CRI-O, as far as what it says of them differs from containerd: its calls
//! and specs are replayed against the real shim.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::path::{Path, PathBuf};

use bulkhead_e2e::replay::{
    Shim, creation, crio_annotations, crio_bundle, encoded, fifo, limit, reader, spec, start,
};
use bulkhead_e2e::{PodGroup, busybox_image, in_machine};
use containerd_shim_protos::api::UpdateTaskRequest;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// CRI-O's word for a pod's limits; `null` where it has none.
const RESOURCES: &str = "io.kubernetes.cri-o.PodLinuxResources";

/// A pod, and its one container.
struct Pod {
    dir: PathBuf,
    id: String,
    app: String,
    /// The container's bundle.
    bundle: PathBuf,
    shim: Shim,
    execs: Cell<u32>,
}

/// The bundle of a pod or a container of `pod`, which belongs below `group`.
fn bundle(dir: &Path, id: &str, kind: &str, pod: &str, group: &PodGroup, more: &Value) -> PathBuf {
    let mut annotations = crio_annotations(kind, pod);
    annotations[RESOURCES] = json!(more.to_string());
    let mut own = spec(&dir.join("root"), "sleep 1000", &annotations);
    own["linux"]["cgroupsPath"] = json!(format!("/{}/crio-{id}", group.name()));
    crio_bundle(dir, id, &own)
}

impl Pod {
    /// Starts a pod with these limits below `group`, and a container in it that waits.
    async fn start(dir: &Path, group: &PodGroup, name: &str, limits: &Value) -> Self {
        let id = format!("{name}-{}", std::process::id());
        let own = bundle(dir, &id, "sandbox", &id, group, limits);
        let shim = Shim::start(&own, &id).await;
        let app = format!("app-{id}");
        let pod = Self {
            dir: dir.to_owned(),
            bundle: bundle(dir, &app, "container", &id, group, limits),
            id,
            app,
            shim,
            execs: 0.into(),
        };
        pod.create(&pod.id, &own).await.unwrap();
        pod.shim.begin(&pod.id, "").await;
        assert_eq!(start(&pod.bundle, "default", &pod.app), pod.shim.address);
        pod.create(&pod.app, &pod.bundle).await.unwrap();
        pod.shim.begin(&pod.app, "").await;
        pod
    }

    async fn create(&self, id: &str, bundle: &Path) -> ttrpc::Result<()> {
        let create = creation(&self.dir, id, bundle);
        self.shim.task.create(limit(), &create).await.map(drop)
    }

    /// Changes the container's limits.
    async fn update(&self, resources: &Value) -> ttrpc::Result<()> {
        let update = UpdateTaskRequest {
            id: self.app.clone(),
            resources: encoded(resources),
            ..Default::default()
        };
        self.shim.task.update(limit(), &update).await.map(drop)
    }

    /// Runs a script in the container; what it says.
    async fn exec(&self, script: &str) -> String {
        self.execs.set(self.execs.get() + 1);
        let exec = format!("e{}", self.execs.get());
        let out = fifo(&self.dir.join(format!("{}-{exec}", self.id)));
        let said = reader(out.clone());
        self.shim.exec(&self.app, &exec, script, out).await;
        self.shim.wait(&self.app, &exec).await;
        said.join().unwrap().trim().to_owned()
    }

    /// MiB of the guest, and its processors.
    async fn machine(&self) -> (u64, usize) {
        let memory = "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
        let memory = self.exec(memory).await.parse().unwrap();
        let vcpus = self.exec("grep -c ^processor /proc/cpuinfo").await;
        (memory, vcpus.parse().unwrap())
    }

    async fn end(self) {
        for id in [&self.app, &self.id] {
            // It may have ended.
            let _ = self.shim.kill(id, 9, false).await;
            self.shim.wait(id, "").await;
            self.shim.delete(id, "").await;
        }
        self.shim.shut_down(&self.id).await;
    }
}

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
    let pod = Pod::start(temp.path(), &group, "crio-sized", &limits).await;
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
    let victim = Pod::start(dir, &group, "crio-victim", &Value::Null).await;

    // CRI-O writes the annotations of a pod over its own.
    let id = format!("crio-rogue-{}", std::process::id());
    let bundle = bundle(dir, &id, "container", &victim.id, &others, &Value::Null);
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
    let pod = Pod::start(temp.path(), &group, "crio-told", &Value::Null).await;
    // As CRI-O asks whether they live.
    for id in [&pod.id, &pod.app] {
        pod.shim.kill(id, 0, false).await.unwrap();
        let refused = pod.shim.kill(id, 65, false).await.unwrap_err().to_string();
        assert!(refused.contains("no signal 65"), "{refused}");
    }
    assert_eq!(pod.exec("echo alive").await, "alive");

    let oom = pod.bundle.join("oom");
    assert!(!oom.exists());
    let short = json!({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}});
    pod.update(&short).await.unwrap();
    pod.exec("awk 'BEGIN { text = \"x\"; while (1) text = text text }'")
        .await;
    pod.shim.kill(&pod.app, 9, false).await.unwrap();
    assert_eq!(pod.shim.wait(&pod.app, "").await, 137);
    assert!(oom.exists());
    let ended = pod
        .shim
        .kill(&pod.app, 0, false)
        .await
        .unwrap_err()
        .to_string();
    assert!(ended.contains("already finished"), "{ended}");
    pod.end().await;
}
