//! Run OCI containers, each in its own virtual machine.
fn main() {}
