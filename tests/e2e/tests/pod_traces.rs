//! Spans of a pod, received by a collector as OpenTelemetry's protocol has it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_e2e::{Node, in_machine};
use containerd_shim_protos::api::UpdateTaskRequest;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;

/// How long a span may be on its way.
const ARRIVAL: Duration = Duration::from_secs(20);

/// A collector and the program that sends to it.
struct Tracing {
    /// The pods of a node tell one monitor.
    _alone: MutexGuard<'static, ()>,
    arrivals: Receiver<Span>,
    spans: Vec<Span>,
    monitor: Child,
}

/// Takes one request of OTLP/HTTP.
fn take(stream: &mut TcpStream) -> Vec<Span> {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()));
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    lines.read_exact(&mut body).unwrap();
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    let resources = request.resource_spans.into_iter();
    let scopes = resources.flat_map(|own| own.scope_spans);
    scopes.flat_map(|own| own.spans).collect()
}

impl Tracing {
    fn start() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let collector = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", collector.local_addr().unwrap());
        let (tell, arrivals) = channel();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = collector.accept() {
                for span in take(&mut stream) {
                    if tell.send(span).is_err() {
                        return;
                    }
                }
            }
        });
        let mut monitor = Command::new(bulkhead_e2e::program())
            .args(["monitor", "--listen", "127.0.0.1:0", "--otlp", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = monitor.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        Self {
            _alone: alone,
            arrivals,
            spans: Vec::new(),
            monitor,
        }
    }

    /// The first span that fits, waited for.
    fn find(&mut self, what: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let deadline = Instant::now() + ARRIVAL;
        loop {
            if let Some(found) = self.spans.iter().find(|own| fits(own)) {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left) {
                Ok(span) => self.spans.push(span),
                Err(_) => {
                    let names: Vec<_> = self.spans.iter().map(|own| &own.name).collect();
                    panic!("no span {what} among {names:?}");
                }
            }
        }
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let own = span.attributes.iter().find(|own| own.key == key)?;
    match own.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_pods_start_is_one_trace_from_the_call_to_the_guest() {
    if !in_machine() {
        return;
    }
    let mut tracing = Tracing::start();
    let node = Node::start().await;
    let mut settings = std::fs::File::options()
        .append(true)
        .open(node.path().join("bulkhead.toml"))
        .unwrap();
    settings.write_all(b"trace = true\n").unwrap();
    let pod = node.pod("traced").await;
    let app = pod.start("app", "sleep 1000").await;

    let is = |name: &'static str, container: Option<String>| {
        move |own: &Span| own.name == name && attribute(own, "container.id") == container
    };
    let create = tracing.find("of the pod", is("create", None));
    assert_eq!(attribute(&create, "k8s.pod.name").unwrap(), "traced");
    assert!(create.parent_span_id.is_empty());
    let boot = tracing.find("of the boot", is("boot", None));
    let kernel = tracing.find("of the kernel", is("kernel", None));
    let own = tracing.find("of the container", is("create", Some(app.id.clone())));
    let guest = tracing.find("of the guest", |own| {
        attribute(own, "bulkhead.side").as_deref() == Some("guest")
    });
    let start = tracing.find("of the start", is("start", Some(app.id.clone())));
    for (child, parent) in [(&boot, &create), (&kernel, &boot), (&guest, &own)] {
        assert_eq!(child.parent_span_id, parent.span_id, "{}", child.name);
    }
    for span in [&boot, &kernel, &own, &guest, &start] {
        assert_eq!(span.trace_id, create.trace_id, "{}", span.name);
        assert!(
            span.start_time_unix_nano < span.end_time_unix_nano,
            "{span:?}"
        );
    }
    assert!(kernel.end_time_unix_nano <= boot.end_time_unix_nano);
    assert!(own.start_time_unix_nano <= guest.start_time_unix_nano);

    // Whoever has a trace already goes on with it, and hears of failures.
    let bundles = "state/io.containerd.runtime.v2.task/k8s.io";
    let address = node.path().join(bundles).join(&pod.id).join("address");
    let address = std::fs::read_to_string(address).unwrap();
    let task = TaskClient::new(Client::connect(&address).await.unwrap());
    let mut context = ttrpc::context::with_duration(Duration::from_secs(30));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    context
        .metadata
        .insert("traceparent".to_owned(), vec![parent.to_owned()]);
    let update = UpdateTaskRequest {
        id: app.id.clone(),
        resources: MessageField::some(Any {
            value: b"nonsense".to_vec(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(task.update(context, &update).await.is_err());
    let failed = tracing.find("of the update", is("update", Some(app.id.clone())));
    assert_eq!(failed.trace_id[..4], [0x0a, 0xf7, 0x65, 0x19]);
    assert_eq!(failed.parent_span_id[..4], [0xb7, 0xad, 0x6b, 0x71]);
    let status = failed.status.unwrap();
    assert!(
        status.code == 2 && status.message.contains("limits"),
        "{status:?}"
    );
    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn nothing_is_told_unless_asked_for() {
    if !in_machine() {
        return;
    }
    let tracing = Tracing::start();
    let node = Node::start().await;
    let pod = node.pod("silent").await;
    pod.start("app", "exit 0").await.ended().await;
    pod.remove().await.unwrap();
    // Longer than a batch is gathered.
    let told = tracing.arrivals.recv_timeout(Duration::from_secs(2));
    assert!(told.is_err(), "{told:?}");
}
