//! Seccomp profiles to OCI form, and OCI form to BPF programs.

