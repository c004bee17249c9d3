//! The QEMU backend of the hypervisor seam.

