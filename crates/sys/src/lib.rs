//! Typed wrappers for the kernel interfaces Bulkhead uses beyond rustix.
//!
//! The one library crate that may hold `unsafe`: what a caller can do wrong
//! with a raw system call is settled here, once.

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod directory;
mod empty_root;
pub mod ext4;
mod idle;
mod inherited;
pub mod jail;
#[cfg(feature = "kvm")]
pub mod kvm;
pub mod loop_device;
pub mod mounts;
pub mod namespaces;
mod resident;
pub mod rooted;
pub mod tap;
pub mod uevents;

pub use empty_root::MountNamespace;
pub use idle::idle;
pub use inherited::inherited;
pub use resident::shed;
