//! A sandbox: one virtual machine, its agent, its containers.

