//! The pod's process: listens, and ends when containerd says so.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_provision::helper::readable;
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use containerd_shim_protos::shim_async::{Task, create_task};
use futures::stream;
use tokio::net::UnixListener as AsyncListener;
use tokio::time::timeout;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Args;
use crate::connections::Connections;
use crate::events::Publisher;
use crate::place::Place;
use crate::pod::{Haste, Pod};
use crate::sandbox::SandboxApi;
use crate::task::TaskApi;

/// Names containerd 1.x and 2.x know the same calls by.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

/// Connections that may wait: one for each container, when containerd comes back.
const BACKLOG: i32 = 1024;

/// How long the connections may stay open then.
const LEAVE: Duration = Duration::from_secs(2);

/// Why a pod's process could not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the descriptor {0} was not handed over")]
    Descriptor(i32),
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
    #[error("containerd could not be heard")]
    Listen(#[source] std::io::Error),
    #[error("containerd could not be heard")]
    Server(#[source] ttrpc::Error),
}

/// Serves until the last container is gone and containerd says to stop.
pub(crate) fn run(args: &Args, listener: i32) -> Result<(), Error> {
    let listener = bulkhead_sys::inherited(listener).ok_or(Error::Descriptor(listener))?;
    // One thread: monitor and file server die with the thread that starts
    // them, and this one lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let owner = match args.owner {
        Some(number) => Some(bulkhead_sys::inherited(number).ok_or(Error::Descriptor(number))?),
        None => None,
    };
    let outcome = runtime.block_on(serve(args, listener.into(), owner));
    Place::of(&args.namespace, &args.id).remove();
    outcome
}

/// Answers when whoever the pod is for is gone.
async fn gone(owner: Option<OwnedFd>) {
    if let Some(owner) = owner
        && readable(owner).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn serve(args: &Args, listener: UnixListener, owner: Option<OwnedFd>) -> Result<(), Error> {
    // Whoever connects learns whose socket it is now: not that of the process
    // that made it.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| Error::Listen(error.into()))?;
    listener.set_nonblocking(true).map_err(Error::Listen)?;
    let listener = AsyncListener::from_std(listener).map_err(Error::Listen)?;
    let connections = Connections::default();
    let counted = connections.clone();
    let accepted = stream::unfold((listener, counted), |(listener, counted)| async move {
        let accepted = counted.accept(&listener).await;
        Some((accepted, (listener, counted)))
    });
    let publisher = Publisher::start(&args.namespace, &args.address);
    let pod = Arc::new(Pod::new(args, publisher));
    let task: Arc<dyn Task + Send + Sync> = Arc::new(TaskApi::new(Arc::clone(&pod)));
    // The two versions differ in their name only.
    let mut services = create_task(Arc::clone(&task));
    if let Some(v3) = services.remove(TASK_V3) {
        services.insert(TASK_V2.to_owned(), v3);
    }
    services.extend(create_task(task));
    let sandbox: Arc<dyn Sandbox + Send + Sync> = Arc::new(SandboxApi::new(Arc::clone(&pod)));
    services.extend(create_sandbox(sandbox));
    let mut server = Server::new()
        .add_listener(Listener::new(Box::pin(accepted)))
        .register_service(services);
    server.start().await.map_err(Error::Server)?;
    // A pod that was deleted and that nobody is connected to is forgotten, with
    // whatever a containerd that was killed had begun in it.
    let forgotten = async {
        pod.until_deleted().await;
        connections.none().await;
    };
    tokio::select! {
        haste = pod.until_shutdown() => {
            // Its other tasks may still wait for the answer to their deletion;
            // it closes the connection of each when it has it.
            if haste == Haste::None {
                let _ = timeout(LEAVE, connections.none()).await;
            }
        }
        () = forgotten => {}
        () = gone(owner) => {
            tracing::warn!("whoever had the pod made is gone, and the pod with it");
        }
    }
    // Who waits for a container's end is answered when the machine has ended; and answers
    // and events that are under way leave first.
    pod.end_machine().await;
    let _ = server.shutdown().await;
    pod.close().await;
    Ok(())
}
