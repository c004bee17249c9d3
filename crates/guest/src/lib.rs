//! Builds and finds what a sandbox boots: kernel, initramfs, manifest.

