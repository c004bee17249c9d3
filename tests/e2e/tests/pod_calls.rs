//! What callers are told: an event for each step of a task's life, and codes by
//! which they decide what a failure means.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bulkhead_e2e::cri::ContainerConfig;
use bulkhead_e2e::{Node, in_machine};
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, CreateTaskRequest, DeleteRequest, ExecProcessRequest,
    KillRequest, PidsRequest, StartRequest, StateRequest, StatsRequest, UpdateTaskRequest,
    WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use ttrpc::Code;
use ttrpc::context::{Context, with_duration};

/// How long an event may take.
const SOON: Duration = Duration::from_secs(20);

/// containerd's events, as somebody who watches them sees them.
struct Events {
    watcher: Child,
    lines: Receiver<String>,
}

impl Events {
    fn of(node: &Node) -> Self {
        let socket = node.path().join("containerd.sock").display().to_string();
        let mut watcher = Command::new("ctr")
            .args(["--address", &socket, "--namespace", "k8s.io", "events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ctr is there: `apt install containerd`");
        let out = watcher.stdout.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { watcher, lines }
    }

    /// The kinds of events of tasks that name this id, until the one.
    fn until(&self, last: &str, id: &str) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != last) {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no {last} after {kinds:?}"));
            let kind = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix("/tasks/"));
            if let Some(kind) = kind.filter(|_| line.contains(id)) {
                kinds.push(kind.to_owned());
            }
        }
        kinds
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
    }
}

/// Waits until containerd hands events on: those of an image are ones, too.
async fn hears(events: &Events, node: &Node) {
    let deadline = Instant::now() + SOON;
    while events.lines.try_recv().is_err() {
        assert!(Instant::now() < deadline, "no events come");
        let label = format!("heard={:?}", deadline.duration_since(Instant::now()));
        let labelled = node.ctr(&["image", "label", "localhost/busybox:1", &label]);
        assert_eq!(labelled.code, 0, "{labelled:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn with_memory(config: &mut ContainerConfig) {
    let linux = config.linux.as_mut().unwrap();
    linux.resources.as_mut().unwrap().memory_limit_in_bytes = 32 << 20;
}

#[tokio::test]
async fn every_step_of_a_tasks_life_is_an_event() {
    let node = Node::start().await;
    let events = Events::of(&node);
    hears(&events, &node).await;
    let pod = node.pod("told").await;
    let app = pod.start("app", "sleep 1000").await;
    assert_eq!(events.until("start", &app.id), ["create", "start"]);

    assert_eq!(app.exec("exit 3").await.code, 3);
    // The end of a process and its removal come in this order; that it was
    // added comes before it starts.
    let kinds = events.until("exit", &app.id);
    assert_eq!(kinds, ["exec-added", "exec-started", "exit"]);
    for (verb, kind) in [("pause", "paused"), ("resume", "resumed")] {
        assert_eq!(node.ctr(&["task", verb, &app.id]).code, 0);
        assert_eq!(events.until(kind, &app.id).last().unwrap(), kind);
    }
    app.stop(0).await.unwrap();
    let kinds = events.until("delete", &app.id);
    let mut last = kinds.iter().rev().take(2).map(String::as_str);
    assert_eq!((last.next(), last.next()), (Some("delete"), Some("exit")));

    let hungry = pod
        .start_with("hungry", "head -c 200m /dev/zero | tail", with_memory)
        .await
        .unwrap();
    assert!(
        events
            .until("oom", &hungry.id)
            .contains(&"start".to_owned())
    );
    let hungry = hungry.id.clone();
    pod.remove().await.unwrap();
    events.until("delete", &hungry);
}

fn limit() -> Context {
    with_duration(Duration::from_secs(30))
}

fn code<T>(answer: ttrpc::Result<T>) -> Code {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        Err(other) => panic!("not a status: {other}"),
        Ok(_) => Code::OK,
    }
}

fn process(text: &str) -> MessageField<Any> {
    MessageField::some(Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: text.as_bytes().to_vec(),
        ..Default::default()
    })
}

/// A request with some fields set.
macro_rules! ask {
    ($client:ident.$call:ident($kind:ident { $($field:ident: $value:expr),* })) => {
        code($client.$call(limit(), &$kind { $($field: $value.into(),)* ..Default::default() }).await)
    };
}

#[tokio::test]
async fn a_failure_has_the_code_that_says_what_to_do() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("codes").await;
    let app = pod.start("app", "sleep 1000").await;
    let shim = Client::connect(&pod.shim_address()).await.unwrap();
    let task = TaskClient::new(shim);
    let (id, nobody) = (app.id.as_str(), "nobody");

    // There is none of that name: whoever wanted it gone is content.
    assert_eq!(
        ask!(task.state(StateRequest { id: nobody })),
        Code::NOT_FOUND
    );
    assert_eq!(
        ask!(task.start(StartRequest { id: nobody })),
        Code::NOT_FOUND
    );
    assert_eq!(
        ask!(task.kill(KillRequest {
            id: nobody,
            signal: 9u32
        })),
        Code::NOT_FOUND
    );
    assert_eq!(
        ask!(task.delete(DeleteRequest { id: nobody })),
        Code::NOT_FOUND
    );
    assert_eq!(ask!(task.wait(WaitRequest { id: nobody })), Code::NOT_FOUND);
    assert_eq!(
        ask!(task.stats(StatsRequest { id: nobody })),
        Code::NOT_FOUND
    );
    assert_eq!(ask!(task.pids(PidsRequest { id: nobody })), Code::NOT_FOUND);
    assert_eq!(
        ask!(task.update(UpdateTaskRequest {
            id: nobody,
            resources: process("{}")
        })),
        Code::NOT_FOUND
    );
    assert_eq!(
        ask!(task.close_io(CloseIORequest { id: nobody })),
        Code::NOT_FOUND
    );
    let gone = ask!(task.state(StateRequest {
        id: id,
        exec_id: "gone"
    }));
    assert_eq!(gone, Code::NOT_FOUND);

    // The name is taken, or it is not the time.
    assert_eq!(
        ask!(task.create(CreateTaskRequest { id: id })),
        Code::ALREADY_EXISTS
    );
    assert_eq!(
        ask!(task.start(StartRequest { id: id })),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        ask!(task.delete(DeleteRequest { id: id })),
        Code::FAILED_PRECONDITION
    );
    let plain = r#"{"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}}"#;
    let exec = || ExecProcessRequest {
        id: id.into(),
        exec_id: "one".into(),
        spec: process(plain),
        ..Default::default()
    };
    assert_eq!(code(task.exec(limit(), &exec()).await), Code::OK);
    assert_eq!(
        code(task.exec(limit(), &exec()).await),
        Code::ALREADY_EXISTS
    );

    // It makes no sense.
    let nonsense = ExecProcessRequest {
        exec_id: "two".into(),
        spec: process("{"),
        ..exec()
    };
    assert_eq!(
        code(task.exec(limit(), &nonsense).await),
        Code::INVALID_ARGUMENT
    );
    let signal = ask!(task.kill(KillRequest {
        id: id,
        signal: 4711u32
    }));
    assert_eq!(signal, Code::INVALID_ARGUMENT);
    let path = ExecProcessRequest {
        exec_id: "../../two".into(),
        ..exec()
    };
    assert_eq!(
        code(task.exec(limit(), &path).await),
        Code::INVALID_ARGUMENT
    );

    // It will never be.
    let kept = ask!(task.checkpoint(CheckpointTaskRequest { id: id }));
    assert_eq!(kept, Code::UNIMPLEMENTED);

    // Nothing of it did any harm.
    assert_eq!(app.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}
