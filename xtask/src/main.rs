//! Tasks for people and CI: demo, test, check, bench, guest, lab.
fn main() {}
