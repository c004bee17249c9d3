//! `delete`: takes away what containerd does not know any more. containerd calls
//! it in the bundle when the connection broke, and says what it hears to whoever
//! asks. Mostly the pod's process is dead then. Where it lives, it was asked for
//! something by a containerd that was killed, and has to be told that nobody
//! will come back for it.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use containerd_shim_protos::api::{
    DeleteRequest, DeleteResponse, KillRequest, ShutdownRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::timeout;
use ttrpc::context;

use crate::args::Args;
use crate::place::Place;
use crate::process;

/// Exit code of a container that lost its pod: killed.
const LOST: u32 = 137;

const KILL: u32 = 9;

/// How long a pod's process that lives may take to end, or to end a container.
/// containerd grants 5 seconds in all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest address, bytes: unix(7) has less room.
const ADDRESS_LIMIT: u64 = 256;

/// Why the answer could not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the answer could not be written")]
    Answer(#[from] protobuf::Error),
    #[error("the answer could not be written")]
    Output(#[from] std::io::Error),
}

/// The monitor and the file server died with the process, or do now; what
/// outlives it is its directory and the redirection of its network.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let place = Place::of(&args.namespace, &args.id);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match place.process() {
            Some(process) => end_pod(&place, &process).await,
            None => {
                end_container(&args.id).await;
                Ok(())
            }
        }
    })?;
    place.remove();
    let answer = DeleteResponse {
        pid: 0,
        exit_status: LOST,
        exited_at: Some(process::now()).into(),
        ..Default::default()
    };
    let bytes = answer.write_to_bytes()?;
    std::io::stdout().write_all(&bytes)?;
    Ok(())
}

/// Ends a pod that lives: by its own hand, or, when it does not, by the
/// kernel's.
async fn end_pod(place: &Place, process: &OwnedFd) -> std::io::Result<()> {
    let address = format!("unix://{}", place.socket().display());
    let asked = async {
        if let Ok(client) = Client::connect(&address).await {
            let request = ShutdownRequest {
                now: true,
                ..Default::default()
            };
            let task = TaskClient::new(client);
            let _ = task
                .shutdown(context::with_duration(PATIENCE), &request)
                .await;
        }
    };
    let _ = timeout(PATIENCE, asked).await;
    if !has_ended(process)? {
        tracing::warn!("the pod's process does not end by itself: it is killed");
        pidfd_send_signal(process, Signal::KILL)?;
        has_ended(process)?;
    }
    Ok(())
}

/// Waits for the end of a process, whose descriptor is readable then. Nothing
/// else is to be done meanwhile.
fn has_ended(process: &OwnedFd) -> std::io::Result<bool> {
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&limit))? > 0)
}

/// Ends a container of a pod that goes on. This directory is its bundle, in
/// which `start` wrote where its pod answers.
async fn end_container(id: &str) {
    let Some(address) = pod_address() else { return };
    let asked = async {
        // A pod that is gone took its containers along.
        let Ok(client) = Client::connect(&address).await else {
            return;
        };
        let task = TaskClient::new(client);
        let limit = || context::with_duration(PATIENCE);
        let id = id.to_owned();
        let kill = KillRequest {
            id: id.clone(),
            signal: KILL,
            all: true,
            ..Default::default()
        };
        let wait = WaitRequest {
            id: id.clone(),
            ..Default::default()
        };
        let delete = DeleteRequest {
            id,
            ..Default::default()
        };
        // What is not there any more needs nothing.
        let _ = task.kill(limit(), &kill).await;
        let _ = task.wait(limit(), &wait).await;
        let _ = task.delete(limit(), &delete).await;
    };
    let _ = timeout(PATIENCE, asked).await;
}

fn pod_address() -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open("address").ok()?;
    file.take(ADDRESS_LIMIT).read_to_string(&mut text).ok()?;
    Some(text)
}
