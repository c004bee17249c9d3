//! A systemd of one service and one scope, behind a real D-Bus connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedValue};

use super::*;

type Properties = HashMap<String, OwnedValue>;

/// What was asked.
#[derive(Debug, Default, Clone)]
struct Asked {
    restarted: Vec<String>,
    started: Vec<(String, Properties)>,
    attached: Vec<(String, Vec<u32>)>,
}

struct Manager {
    result: &'static str,
    /// There is a unit of every name.
    exists: bool,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
}

const JOB: ObjectPath<'static> =
    ObjectPath::from_static_str_unchecked("/org/freedesktop/systemd1/job/7");

impl Manager {
    /// Another unit's job ends first.
    async fn ends(&self, emitter: &SignalEmitter<'_>, name: &str) -> zbus::Result<()> {
        let other = ObjectPath::from_static_str_unchecked("/other");
        let name = name.to_owned();
        Self::job_removed(emitter, 6, other, name.clone(), "failed".to_owned()).await?;
        Self::job_removed(emitter, 7, JOB, name, self.result.to_owned()).await
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn subscribe(&self) {}

    async fn get_unit(&self, name: String) -> zbus::fdo::Result<ObjectPath<'static>> {
        if name == "k3s-agent.service" {
            return Ok(ObjectPath::from_static_str_unchecked("/unit"));
        }
        Err(zbus::fdo::Error::Failed("not loaded".to_owned()))
    }

    async fn restart_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> zbus::fdo::Result<ObjectPath<'static>> {
        assert_eq!(mode, "replace");
        self.asked.lock().unwrap().restarted.push(name.clone());
        self.ends(&emitter, &name).await?;
        Ok(JOB)
    }

    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedValue)>,
        auxiliary: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<ObjectPath<'static>, Refusal> {
        assert_eq!((mode.as_str(), auxiliary.len()), ("replace", 0));
        if self.exists {
            return Err(Refusal::UnitExists(name));
        }
        let properties = properties.into_iter().collect();
        let started = (name.clone(), properties);
        self.asked.lock().unwrap().started.push(started);
        self.ends(&emitter, &name).await?;
        Ok(JOB)
    }

    async fn attach_processes_to_unit(&self, name: String, below: String, processes: Vec<u32>) {
        assert_eq!(below, "");
        self.asked.lock().unwrap().attached.push((name, processes));
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    async fn active_state(&self) -> String {
        "active".to_owned()
    }
}

/// Answers one caller, until it hangs up.
async fn serve(listener: UnixListener, manager: Manager) {
    let (stream, _) = listener.accept().await.unwrap();
    let connection = Builder::unix_stream(stream)
        .server(zbus::Guid::generate())
        .unwrap()
        .p2p()
        .serve_at("/org/freedesktop/systemd1", manager)
        .unwrap()
        .serve_at("/unit", Unit)
        .unwrap()
        .build()
        .await
        .unwrap();
    let mut messages = zbus::MessageStream::from(connection);
    while let Some(Ok(_)) = messages.next().await {}
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(work)
}

/// Asks a systemd whose jobs end so for something; its answer, and what it heard.
fn ask(
    result: &'static str,
    exists: bool,
    question: impl AsyncFnOnce(Systemd) -> Result<(), SystemdError>,
) -> (Result<(), String>, Asked) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("private");
    let asked = Arc::new(Mutex::new(Asked::default()));
    let manager = Manager {
        result,
        exists,
        asked: Arc::clone(&asked),
    };
    let answer = wait(async {
        let listener = UnixListener::bind(&socket).unwrap();
        let (answer, ()) = tokio::join!(question(Systemd::at(&socket)), serve(listener, manager));
        answer
    });
    let asked = asked.lock().unwrap().clone();
    (answer.map_err(|error| error.to_string()), asked)
}

const UNITS: [&str; 2] = ["k3s.service", "k3s-agent.service"];

#[test]
fn the_unit_that_runs_is_restarted_and_waited_for() {
    let (answer, asked) = ask("done", false, async |own| own.restart_any(&UNITS).await);
    assert_eq!(answer, Ok(()));
    assert_eq!(asked.restarted, ["k3s-agent.service"]);
}

#[test]
fn a_restart_that_fails_names_the_unit() {
    let (answer, _) = ask("failed", false, async |own| own.restart_any(&UNITS).await);
    let text = answer.unwrap_err();
    assert!(
        text.contains("`k3s-agent.service` ended as `failed`"),
        "{text}"
    );
}

#[test]
fn units_that_are_not_active_are_named() {
    let none = async |own: Systemd| own.restart_any(&["crio.service"]).await;
    let (answer, asked) = ask("done", false, none);
    let text = answer.unwrap_err();
    assert!(
        text.contains("crio.service") && asked.restarted.is_empty(),
        "{text}"
    );
}

fn scope() -> Scope {
    Scope {
        slice: "kubepods-pod1.slice".to_owned(),
        name: "cri-containerd-abc.scope".to_owned(),
        description: "pod abc in a machine of its own".to_owned(),
    }
}

#[test]
fn a_scope_is_delegated_and_has_no_limits_of_its_own() {
    let (answer, asked) = ask("done", false, async |own| {
        own.look_after(&scope(), &[7, 8]).await
    });
    assert_eq!(answer, Ok(()));
    let (name, properties) = &asked.started[0];
    assert_eq!(name, "cri-containerd-abc.scope");
    let is = |name: &str, wanted: zbus::zvariant::Value<'_>| {
        assert_eq!(*properties[name], wanted, "{name}");
    };
    is("Slice", "kubepods-pod1.slice".into());
    is("PIDs", vec![7u32, 8].into());
    is("Delegate", true.into());
    is("TasksMax", u64::MAX.into());
    assert!(asked.attached.is_empty());
}

#[test]
fn a_scope_that_is_there_gets_the_processes() {
    let (answer, asked) = ask("done", true, async |own| {
        own.look_after(&scope(), &[7]).await
    });
    assert_eq!(answer, Ok(()));
    assert!(asked.started.is_empty());
    let attached = ("cri-containerd-abc.scope".to_owned(), vec![7]);
    assert_eq!(asked.attached, [attached]);
}

#[test]
fn a_scope_that_does_not_start_is_told() {
    let (answer, _) = ask("failed", false, async |own| {
        own.look_after(&scope(), &[7]).await
    });
    let text = answer.unwrap_err();
    assert!(
        text.contains("start of `cri-containerd-abc.scope`"),
        "{text}"
    );
}

#[test]
fn the_bus_is_asked_also_where_systemd_has_a_socket_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("run/systemd/private");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&own).unwrap();
    let asked = wait(Systemd::of(dir.path()).restart_any(&UNITS));
    let text = asked.unwrap_err().to_string();
    assert!(text.contains("/run/dbus/"), "{text}");
    assert!(!Systemd::runs(dir.path()));
}
