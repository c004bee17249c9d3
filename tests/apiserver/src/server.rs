//! A server and what a test does with it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::faults::{Fault, Faults};
use crate::store::Kind;

/// Requests remembered.
const REQUESTS: usize = 100_000;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes remembered for watches.
    pub history: usize,
    /// Time between bookmarks.
    pub bookmarks: Duration,
    /// The port; 0 for any that is free.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: 10_000,
            bookmarks: Duration::from_secs(60),
            port: 0,
        }
    }
}

/// A request the server had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// As RBAC has it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`.
    pub verb: String,
    /// The API group; empty for the core one.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// Empty for none.
    pub subresource: String,
    /// Empty for none, or all.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// Who asked.
    pub user: String,
    /// When it came.
    pub time: SystemTime,
}

/// Is told of each request.
struct Observer(Box<dyn Fn(&Recorded) + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// What requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    cluster: Mutex<Cluster>,
    faults: Mutex<Faults>,
    requests: Mutex<VecDeque<Recorded>>,
    observer: OnceLock<Observer>,
    enforce: AtomicBool,
    /// Moves with everything that may concern a watch.
    pub(crate) moved: watch::Sender<u64>,
    pub(crate) bookmarks: Duration,
}

impl Shared {
    /// What a panicking test left half done is no worse than the panic.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<Recorded>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, request: Recorded) {
        if let Some(Observer(observer)) = self.observer.get() {
            observer(&request);
        }
        let mut requests = self.requests();
        if requests.len() == REQUESTS {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    pub(crate) fn enforces(&self) -> bool {
        self.enforce.load(Ordering::Relaxed)
    }

    pub(crate) fn wake(&self) {
        self.moved.send_modify(|count| *count += 1);
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    /// Starts a server on a port of the loopback interface, in the running Tokio runtime.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            cluster: Mutex::new(Cluster::new(options.history)),
            faults: Mutex::default(),
            requests: Mutex::default(),
            observer: OnceLock::new(),
            enforce: AtomicBool::new(false),
            moved: watch::Sender::new(0),
            bookmarks: options.bookmarks,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self {
            shared,
            address,
            task,
        })
    }

    /// Where it listens, as `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for it, as JSON (which is YAML too); the user is an administrator, or `user`.
    /// It impersonates: client-go sends no token without TLS.
    #[must_use]
    pub fn kubeconfig(&self, user: Option<&str>) -> String {
        let user = user.map_or_else(
            || serde_json::json!({}),
            |name| serde_json::json!({ "as": name }),
        );
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": self.url() } }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// Creates an object of any kind served, or the items of a list, as an administrator would
    /// but unrecorded and without faults.
    ///
    /// # Errors
    /// An object is refused.
    pub fn load(&self, object: Value) -> Result<(), Failure> {
        let items = match object {
            Value::Object(mut list) if list.get("items").is_some_and(Value::is_array) => {
                match list.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                }
            }
            one => vec![one],
        };
        let mut cluster = self.shared.cluster();
        let loaded = items
            .into_iter()
            .try_for_each(|item| cluster.load(item).map(drop));
        drop(cluster);
        self.shared.wake();
        loaded
    }

    /// The objects of a kind in all namespaces, as stored; no request is recorded.
    #[must_use]
    pub fn objects(&self, group: &str, plural: &str) -> Vec<Value> {
        let kind = Kind {
            group: group.into(),
            plural: plural.into(),
        };
        let cluster = self.shared.cluster();
        let all = cluster.store.list(&kind, "");
        all.map(|(_, object)| Value::clone(object)).collect()
    }

    /// Changes an object in place, its status too, as a controller or a kubelet would; no request
    /// is recorded and no rule asked. The namespace is empty where the kind has none.
    ///
    /// # Errors
    /// There is no such kind or object.
    pub fn edit(
        &self,
        group: &str,
        plural: &str,
        (namespace, name): (&str, &str),
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Failure> {
        let kind = Kind {
            group: group.into(),
            plural: plural.into(),
        };
        let mut cluster = self.shared.cluster();
        cluster.edit(&kind, namespace, name, change)?;
        drop(cluster);
        self.shared.wake();
        Ok(())
    }

    /// The requests so far for objects, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests().iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.requests().clear();
    }

    /// Has `observer` told of each request from now on, before anything is done about it: what
    /// it kills, it kills in the middle of that request. Only the first observer counts.
    pub fn observe(&self, observer: impl Fn(&Recorded) + Send + Sync + 'static) {
        let _ = self.shared.observer.set(Observer(Box::new(observer)));
    }

    /// Whether requests need a role that allows them. Those without a name are an administrator's.
    pub fn enforce_rbac(&self, enforce: bool) {
        self.shared.enforce.store(enforce, Ordering::Relaxed);
    }

    /// Where trouble is ordered.
    #[must_use]
    pub fn faults(&self) -> Trouble<'_> {
        Trouble(&self.shared)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Orders trouble.
#[derive(Debug)]
pub struct Trouble<'a>(&'a Shared);

impl Trouble<'_> {
    /// Seeds the chances of faults.
    pub fn seed(&self, seed: u64) {
        self.0.faults().seed(seed);
    }

    /// From now on.
    pub fn add(&self, fault: Fault) {
        self.0.faults().add(fault);
    }

    /// No more of what was added.
    pub fn clear(&self) {
        self.0.faults().clear();
    }

    /// Breaks the connections of the watches of `resource` (`*` for all) that there are now.
    pub fn drop_watches(&self, resource: &str) {
        self.0.faults().drop_watches(resource);
        self.0.wake();
    }

    /// Forgets the history: all watches end with the event `ERROR` and the code 410, and so do
    /// those that begin at a version before now.
    pub fn forget_history(&self) {
        self.0.cluster().store.forget();
        self.0.wake();
    }

    /// Whether a watch that begins at a version no longer known is answered with the status 410,
    /// in place of the event.
    pub fn plain_expiry(&self, plain: bool) {
        self.0.faults().plain_expiry = plain;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service =
                service_fn(move |request| crate::http::serve(Arc::clone(&shared), request));
            let stream = TokioIo::new(stream);
            // A connection that breaks is the client's affair, or was ordered.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .await;
        });
    }
}
