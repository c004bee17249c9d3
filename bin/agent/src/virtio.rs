//! Devices of virtio's bus, and who drives them. sysfs(5).

use std::io;
use std::path::Path;

const DRIVERS: &str = "/sys/bus/virtio/drivers";

/// The device that a disk or an interface is, by its directory in `/sys`.
pub(crate) fn device(of: &Path) -> Option<String> {
    let link = std::fs::read_link(of.join("device")).ok()?;
    let device = link.file_name()?.to_str()?;
    device.starts_with("virtio").then(|| device.to_owned())
}

/// Tells a driver to take a device (`bind`), or to leave it (`unbind`).
pub(crate) fn drive(driver: &str, verb: &str, device: &str) -> io::Result<()> {
    std::fs::write(Path::new(DRIVERS).join(driver).join(verb), device)
}
