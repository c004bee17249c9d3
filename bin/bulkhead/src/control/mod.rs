//! How commands talk to a container's supervisor: a SOCK_SEQPACKET socket in
//! the container's directory (0700), one JSON message a packet, descriptors
//! beside it (unix(7), SCM_RIGHTS).
//!
//! Every request has a number; answers carry it. A request that attaches to a
//! process is answered twice: once when that works, once when the process has
//! ended.

pub(crate) mod message;
pub(crate) mod socket;

pub(crate) use message::{Answer, Archive, ExecSpec, Failure, Reply, Request, Streams};
pub(crate) use socket::{AsyncSocket, Listener, Socket};
