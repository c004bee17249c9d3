//! Typed wrappers for the kernel interfaces Bulkhead uses beyond rustix.

