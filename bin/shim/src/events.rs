//! Events, in order, to containerd.

use std::time::Duration;

use containerd_shim_protos::events::task as message;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::{shim::events::ForwardRequest, topics};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::process;

/// Events kept while containerd is away; the oldest are given up beyond.
const QUEUE_LIMIT: usize = 2048;

/// How long one delivery may take, and how long it is tried again for while
/// containerd is away.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    Create(message::TaskCreate),
    Start(message::TaskStart),
    Exit(message::TaskExit),
    Delete(message::TaskDelete),
    Oom(message::TaskOOM),
    ExecAdded(message::TaskExecAdded),
    ExecStarted(message::TaskExecStarted),
    Paused(message::TaskPaused),
    Resumed(message::TaskResumed),
}

impl Event {
    fn parts(&self) -> (&'static str, &'static str, protobuf::Result<Vec<u8>>) {
        use protobuf::Message;
        match self {
            Self::Create(m) => (
                topics::TASK_CREATE_EVENT_TOPIC,
                "TaskCreate",
                m.write_to_bytes(),
            ),
            Self::Start(m) => (
                topics::TASK_START_EVENT_TOPIC,
                "TaskStart",
                m.write_to_bytes(),
            ),
            Self::Exit(m) => (
                topics::TASK_EXIT_EVENT_TOPIC,
                "TaskExit",
                m.write_to_bytes(),
            ),
            Self::Delete(m) => (
                topics::TASK_DELETE_EVENT_TOPIC,
                "TaskDelete",
                m.write_to_bytes(),
            ),
            Self::Oom(m) => (topics::TASK_OOM_EVENT_TOPIC, "TaskOOM", m.write_to_bytes()),
            Self::ExecAdded(m) => (
                topics::TASK_EXEC_ADDED_EVENT_TOPIC,
                "TaskExecAdded",
                m.write_to_bytes(),
            ),
            Self::ExecStarted(m) => (
                topics::TASK_EXEC_STARTED_EVENT_TOPIC,
                "TaskExecStarted",
                m.write_to_bytes(),
            ),
            Self::Paused(m) => (
                topics::TASK_PAUSED_EVENT_TOPIC,
                "TaskPaused",
                m.write_to_bytes(),
            ),
            Self::Resumed(m) => (
                topics::TASK_RESUMED_EVENT_TOPIC,
                "TaskResumed",
                m.write_to_bytes(),
            ),
        }
    }
}

/// Takes events and delivers them from a task of its own: no call waits for
/// containerd.
#[derive(Debug)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Event>,
    delivery: JoinHandle<()>,
}

impl Publisher {
    /// Starts the delivery to the ttrpc socket beside containerd's `address`;
    /// containerd names it in TTRPC_ADDRESS. Who names none, as CRI-O, takes no events.
    pub(crate) fn start(namespace: &str, address: &str) -> Option<Self> {
        let named = std::env::var("TTRPC_ADDRESS").ok();
        let beside = (!address.is_empty()).then(|| format!("{address}.ttrpc"));
        let socket = named.filter(|socket| !socket.is_empty()).or(beside)?;
        let (queue, receiver) = mpsc::channel(QUEUE_LIMIT);
        let namespace = namespace.to_owned();
        let delivery = tokio::spawn(deliver(receiver, socket, namespace));
        Some(Self { queue, delivery })
    }

    /// Queues an event.
    pub(crate) fn publish(&self, event: Event) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::error!(%error, "an event for containerd is lost");
        }
    }

    /// Delivers what is queued, and ends.
    pub(crate) async fn close(self) {
        drop(self.queue);
        let _ = tokio::time::timeout(DELIVERY_TIMEOUT, self.delivery).await;
    }
}

async fn deliver(mut queue: mpsc::Receiver<Event>, socket: String, namespace: String) {
    let mut client: Option<EventsClient> = None;
    while let Some(event) = queue.recv().await {
        let (topic, name, bytes) = event.parts();
        let Ok(value) = bytes else { continue };
        let mut request = ForwardRequest::new();
        let envelope = request.envelope.mut_or_insert_default();
        envelope.timestamp = MessageField::some(process::now());
        envelope.namespace.clone_from(&namespace);
        envelope.topic = topic.to_owned();
        envelope.event = MessageField::some(Any {
            type_url: format!("containerd.events.{name}"),
            value,
            ..Default::default()
        });
        for attempt in 0..ATTEMPTS {
            match forward(&mut client, &socket, &request).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(%error, attempt, topic, "an event waits for containerd");
                    // A restarted containerd listens again on a new socket.
                    if client.take().is_none() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    socket: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let events = match client {
        Some(events) => events,
        None => {
            let connected = Client::connect(&format!("unix://{socket}")).await?;
            client.insert(EventsClient::new(connected))
        }
    };
    let context = ttrpc::context::with_duration(DELIVERY_TIMEOUT);
    events.forward(context, request).await.map(drop)
}
