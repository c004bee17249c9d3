//! The guest agent: PID 1 of every sandbox.
fn main() {}
