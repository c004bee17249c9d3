//! The guest agent: PID 1 of every sandbox.
//!
//! Boots the guest's userspace (mounts, modules), connects to the host over
//! the one byte channel, and does what the host asks: assembles root
//! filesystems, runs containers, carries their output. One thread, one tokio
//! runtime: a forked child may then run ordinary Rust until it executes.
//!
//! ```text
//!   init ─▶ channel ─▶ mux ─┬─ control ─▶ rpc ─▶ container, disks, network
//!                           └─ stdio ───▶ streams ─▶ process pumps
//!   SIGCHLD ─▶ reaper ─▶ process exits ─▶ rpc Wait
//! ```

mod block;
mod block_devices;
mod channel;
mod container;
mod disks;
mod fd;
mod init;
mod memory;
mod mirror;
mod network;
mod ports;
mod process;
mod reaper;
mod resolver;
mod rpc;
mod sandbox_files;
mod spare;
mod streams;
mod uevents;
mod virtio;
mod volumes;

use std::time::Duration;

use bulkhead_protocol::mux::Acceptor;

fn main() {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        eprintln!(
            "bulkhead-agent {}: runs as PID 1 of a sandbox only",
            env!("CARGO_PKG_VERSION")
        );
        std::process::exit(125);
    }
    init::report_panics();
    let started = init::monotonic_ns();
    if let Err(error) = boot(started) {
        init::log(&format!("agent: {}", chain(&error)));
    }
    init::power_off();
}

fn boot(started_ns: u64) -> Result<(), Error> {
    init::prepare()?;
    // No blocking pool: the agent has to stay single-threaded to fork.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(serve(started_ns))
}

async fn serve(started_ns: u64) -> Result<(), Error> {
    let mut channel = channel::open().await.map_err(Error::Channel)?;
    channel::announce(&mut channel)
        .await
        .map_err(Error::Channel)?;
    let (mut acceptor, drive) = Acceptor::drive(channel);
    let driver = tokio::spawn(drive);
    let reaper = reaper::Reaper::start().map_err(Error::Runtime)?;
    let streams = streams::Streams::default();
    let agent = rpc::AgentService::new(started_ns, reaper, streams.clone());
    tokio::spawn(async move {
        while let Some(stream) = acceptor.accept().await {
            let (agent, streams) = (agent.clone(), streams.clone());
            tokio::spawn(async move { dispatch(stream, agent, streams).await });
        }
    });
    // The host is gone or broke the frames: nothing is left to work for.
    let ended = driver.await;
    init::log(&format!(
        "agent: the channel ended ({ended:?}), powering off"
    ));
    Ok(())
}

/// How long a new stream may take to say what it is.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

async fn dispatch(
    mut stream: bulkhead_protocol::mux::Stream,
    agent: rpc::AgentService,
    streams: streams::Streams,
) {
    use bulkhead_protocol::stream::{Header, Kind};
    match tokio::time::timeout(HEADER_TIMEOUT, Header::read(&mut stream)).await {
        Ok(Ok(header)) if header.kind == Kind::Control => rpc::serve(stream, agent).await,
        Ok(Ok(header)) if header.kind == Kind::Port => ports::carry(&header, stream).await,
        Ok(Ok(header)) if header.kind == Kind::Resolver => resolver::carry(&header, stream).await,
        Ok(Ok(header)) => streams.offer(header, stream),
        Ok(Err(error)) => init::log(&format!("agent: {}", chain(&error))),
        Err(_) => init::log("agent: a stream did not say what it is"),
    }
}

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the guest could not be prepared")]
    Init(#[from] init::Error),
    #[error("the channel to the host could not be opened")]
    Channel(#[source] std::io::Error),
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
