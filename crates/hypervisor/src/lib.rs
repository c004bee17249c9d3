//! The seam between a sandbox and a virtual machine monitor: data and traits only.

