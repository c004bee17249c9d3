//! Devices of a spec, and the rules about them, for the guest.

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::Refusal;

/// Largest numbers of a device. Linux, include/linux/kdev_t.h.
const MAJOR_LIMIT: i64 = 1 << 12;
const MINOR_LIMIT: i64 = 1 << 20;

/// Character devices every Linux has under the same numbers.
const KNOWN_DEVICES: [(i64, i64); 10] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
    (10, 200),
    (10, 229),
];

/// A block device of the host a container is given. The spec keeps the host's
/// numbers for it; the guest's are known when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its driver on the host.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
    /// No rule lets the container write to it.
    pub read_only: bool,
}

/// Keeps the devices that mean the same in the guest, and the host's block
/// devices, which become disks. A privileged container is given all of its
/// host's, by containerd, whether it needs them or not: it gets none of them. Of
/// any other container one that cannot be had is an error.
///
/// Rules about block devices name the host's, by numbers that are others' in the
/// guest: only those about the disks are kept.
pub(crate) fn adapt(linux: &mut Linux) -> Result<Vec<BlockDevice>, Refusal> {
    let mut resources = linux.resources().clone().unwrap_or_default();
    let rules = resources.devices().clone().unwrap_or_default();
    let privileged = rules.iter().any(|rule| {
        rule.allow() && rule.major().is_none() && rule.access().as_deref() == Some("rwm")
    });
    let mut kept = Vec::new();
    let mut disks: Vec<BlockDevice> = Vec::new();
    for device in linux.devices().clone().unwrap_or_default() {
        if is_known(&device) {
            kept.push(device);
            continue;
        }
        if privileged {
            continue;
        }
        let (major, minor) = block(&device).ok_or_else(|| refuse(&device))?;
        let known = |own: &BlockDevice| (own.major, own.minor) == (major, minor);
        if !disks.iter().any(known) {
            let letters = access(&rules, device.major(), device.minor());
            disks.push(BlockDevice {
                major,
                minor,
                read_only: !letters.contains('w'),
            });
        }
        kept.push(device);
    }
    let mut own = rules;
    let about: Vec<_> = disks.iter().map(|disk| rule(&own, disk)).collect();
    own.retain(|rule| !is_about_one_block_device(rule));
    own.extend(about);
    if resources.devices().is_some() || !own.is_empty() {
        resources.set_devices(Some(own));
        linux.set_resources(Some(resources));
    }
    linux.set_devices(Some(kept));
    Ok(disks)
}

fn is_known(device: &LinuxDevice) -> bool {
    let character = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
    character && KNOWN_DEVICES.contains(&(device.major(), device.minor()))
}

/// The numbers of a block device that can exist.
fn block(device: &LinuxDevice) -> Option<(u32, u32)> {
    let number = |value: i64, limit: i64| {
        let value = Some(value).filter(|value| (0..limit).contains(value));
        value.and_then(|value| u32::try_from(value).ok())
    };
    let is_block = device.typ() == LinuxDeviceType::B;
    let major = number(device.major(), MAJOR_LIMIT).filter(|_| is_block)?;
    Some((major, number(device.minor(), MINOR_LIMIT)?))
}

fn refuse(device: &LinuxDevice) -> Refusal {
    Refusal::new(format!(
        "the device `{}` ({}:{}) is one of the host's, which a container with a kernel of its own \
         cannot open",
        device.path().display(),
        device.major(),
        device.minor()
    ))
}

/// What the rules let a container do with a block device: the letters that are
/// left when each has given or taken, in their order.
fn access(rules: &[LinuxDeviceCgroup], major: i64, minor: i64) -> String {
    let mut had = [false; 3];
    for rule in rules {
        let is_block = matches!(
            rule.typ(),
            None | Some(LinuxDeviceType::A | LinuxDeviceType::B)
        );
        if !is_block || !fits(rule.major(), major) || !fits(rule.minor(), minor) {
            continue;
        }
        let named = rule.access().as_deref().unwrap_or("rwm");
        for (has, letter) in had.iter_mut().zip("rwm".chars()) {
            if named.contains(letter) {
                *has = rule.allow();
            }
        }
    }
    let letters = "rwm".chars().zip(had).filter(|(_, has)| *has);
    letters.map(|(letter, _)| letter).collect()
}

/// A rule without a number, or with a negative one, is for all.
fn fits(rule: Option<i64>, number: i64) -> bool {
    rule.is_none_or(|own| own < 0 || own == number)
}

fn is_about_one_block_device(rule: &LinuxDeviceCgroup) -> bool {
    let numbered = |number: Option<i64>| number.is_some_and(|number| number >= 0);
    rule.typ() == Some(LinuxDeviceType::B) && (numbered(rule.major()) || numbered(rule.minor()))
}

/// The one rule about a disk: it is there even if it gives nothing, since the
/// guest lets a container open a node of its spec that no rule is about.
fn rule(rules: &[LinuxDeviceCgroup], disk: &BlockDevice) -> LinuxDeviceCgroup {
    let (major, minor) = (i64::from(disk.major), i64::from(disk.minor));
    let letters = access(rules, major, minor);
    let (allow, letters) = match letters.as_str() {
        "" => (false, "rwm".to_owned()),
        _ => (true, letters),
    };
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(LinuxDeviceType::B)
        .major(major)
        .minor(minor)
        .access(letters)
        .build();
    rule.unwrap_or_default()
}

#[cfg(test)]
mod tests;
