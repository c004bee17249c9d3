//! A Kubernetes API server in memory, for tests of the operator: real HTTP on
//! the loopback interface, so that kube-rs and `kubectl` work against it.
//!
//! ```text
//!   http ── route, query, rbac, faults ──▶ cluster (the API's rules; no IO)
//!     │                                       │  schema, cel, patch, apply, admission
//!     └── watch, table, discovery ◀────────── store (objects, versions, history)
//! ```
//!
//! What it does not do is written in `docs/design/0050-test-api-server.md`.

mod admission;
mod apply;
mod cel;
pub mod cluster;
mod discovery;
mod failure;
mod faults;
mod fields;
mod http;
mod lists;
mod object;
pub mod patch;
pub mod query;
mod rbac;
pub mod resource;
mod route;
pub mod schema;
mod seed;
pub mod selector;
mod server;
pub mod store;
mod table;
mod watch;

pub use failure::{Cause, Failure};
pub use faults::{Effect, Fault};
pub use server::{Options, Recorded, Server, Trouble};
