//! A systemd of one unit, behind a real D-Bus connection.

use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::ObjectPath;

use super::*;

struct Manager {
    result: &'static str,
    restarted: Arc<Mutex<Vec<String>>>,
}

const JOB: &str = "/org/freedesktop/systemd1/job/7";

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
        self.restarted.lock().unwrap().push(name.clone());
        // Another unit's job ends first.
        let other = ObjectPath::from_static_str_unchecked("/other");
        Self::job_removed(&emitter, 6, other, name.clone(), "failed".to_owned()).await?;
        let job = ObjectPath::from_static_str_unchecked(JOB);
        Self::job_removed(&emitter, 7, job.clone(), name, self.result.to_owned()).await?;
        Ok(job)
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

/// Restarts a runtime by a systemd that answers so; what was restarted.
fn ask(result: &'static str, runtime: Runtime) -> (Result<(), String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("private");
    let restarted = Arc::new(Mutex::new(Vec::new()));
    let manager = Manager {
        result,
        restarted: Arc::clone(&restarted),
    };
    let (bound, is_bound) = std::sync::mpsc::channel();
    let at = socket.clone();
    let server = std::thread::spawn(move || {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio.block_on(async {
            let listener = UnixListener::bind(&at).unwrap();
            bound.send(()).unwrap();
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
            // Until the other end closes it.
            let mut messages = zbus::MessageStream::from(connection);
            while let Some(Ok(_)) = messages.next().await {}
        });
    });
    is_bound.recv().unwrap();
    let answer = Systemd::at(&socket).restart(runtime);
    server.join().unwrap();
    let restarted = restarted.lock().unwrap().clone();
    (
        answer.map_err(|error| crate::node::chain(error.as_ref())),
        restarted,
    )
}

#[test]
fn the_unit_that_runs_is_restarted_and_waited_for() {
    let (answer, restarted) = ask("done", Runtime::K3s);
    assert_eq!(
        (answer, restarted),
        (Ok(()), vec!["k3s-agent.service".to_owned()])
    );
}

#[test]
fn a_restart_that_fails_names_the_unit() {
    let (answer, _) = ask("failed", Runtime::K3s);
    let text = answer.unwrap_err();
    assert!(
        text.contains("`k3s-agent.service` ended as `failed`"),
        "{text}"
    );
}

#[test]
fn a_runtime_that_is_not_active_is_named() {
    let (answer, restarted) = ask("done", Runtime::Crio);
    let text = answer.unwrap_err();
    assert!(
        text.contains("crio.service") && restarted.is_empty(),
        "{text}"
    );
}

#[test]
fn without_systemd_the_ways_out_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = Systemd::of(dir.path()).restart(Runtime::Crio).unwrap_err();
    assert!(error.to_string().contains("--restart-with"), "{error}");
    // k0s needs none.
    Systemd::of(dir.path()).restart(Runtime::K0s).unwrap();
}

#[test]
fn the_bus_is_asked_also_where_systemd_has_a_socket_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("run/systemd/private");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&own).unwrap();
    let error = Systemd::of(dir.path()).restart(Runtime::Crio).unwrap_err();
    assert!(error.to_string().contains("/run/dbus/"), "{error}");
}
