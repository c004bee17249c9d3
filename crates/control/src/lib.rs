//! How commands talk to whoever holds a machine, a container's supervisor or a
//! pod's shim: a SOCK_SEQPACKET socket in its directory (0700), one JSON message
//! a packet, descriptors beside it (unix(7), SCM_RIGHTS).
//!
//! Every request has a number; answers carry it. A request that attaches to a
//! process is answered twice: once when that works, once when the process has
//! ended.

/// The namespace in which the shim finds containers of the OCI command line, beside
/// those of containerd.
pub const OCI_NAMESPACE: &str = "oci";

mod message;
mod pipes;
mod socket;

pub use message::{
    Answer, Archive, Call, DebugSpec, ExecSpec, Failure, Reply, Request, StatsLine, Streams, Tools,
};
pub use pipes::Pipes;
pub use socket::{AsyncSocket, Listener, SOCKET, Socket};
