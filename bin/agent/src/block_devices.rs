//! A spec's block devices, by the guest's numbers in the place of the host's.

use std::collections::HashMap;
use std::io;

use bulkhead_protocol::agent::Device;
use oci_spec::runtime::{LinuxDeviceType, Spec};

use crate::block;

/// Devices of one container at most.
const DEVICE_LIMIT: usize = 64;

/// Why a device could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("a container has at most {DEVICE_LIMIT} block devices, not {0}")]
    TooMany(usize),
    #[error(transparent)]
    Block(#[from] block::Error),
    #[error("the numbers of `{0}` could not be read")]
    Numbers(String, #[source] io::Error),
}

/// Numbers of devices.
type Numbers = (i64, i64);

/// Waits for the disks, and gives the spec the numbers they have here.
pub(crate) async fn translate(spec: &mut Spec, devices: &[Device]) -> Result<(), Error> {
    if devices.len() > DEVICE_LIMIT {
        return Err(Error::TooMany(devices.len()));
    }
    let mut here = HashMap::new();
    for device in devices {
        let path = block::find(device.disk.get_or_default()).await?;
        let numbers = block::numbers(&path).map_err(|error| Error::Numbers(path, error))?;
        let there = (i64::from(device.major), i64::from(device.minor));
        here.insert(there, (i64::from(numbers.0), i64::from(numbers.1)));
    }
    renumber(spec, &here);
    Ok(())
}

/// Each number is looked up once: one host's may be another's here.
fn renumber(spec: &mut Spec, here: &HashMap<Numbers, Numbers>) {
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    for device in linux.devices_mut().iter_mut().flatten() {
        let there = (device.major(), device.minor());
        if let (LinuxDeviceType::B, Some(own)) = (device.typ(), here.get(&there)) {
            device.set_major(own.0);
            device.set_minor(own.1);
        }
    }
    let resources = linux.resources_mut().as_mut();
    let rules = resources.and_then(|resources| resources.devices_mut().as_mut());
    for rule in rules.into_iter().flatten() {
        let there = rule.major().zip(rule.minor());
        let own = there.and_then(|there| here.get(&there));
        if let (Some(LinuxDeviceType::B), Some(own)) = (rule.typ(), own) {
            rule.set_major(Some(own.0));
            rule.set_minor(Some(own.1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_and_rules_get_the_guests_numbers_and_each_of_them_once() {
        let device = |name: &str, kind: &str, major: i64, minor: i64| json!({"path": format!("/dev/{name}"), "type": kind, "major": major, "minor": minor});
        let rule = |kind: &str, major: i64, minor: i64| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rw"});
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "linux": {
                "devices": [
                    device("a", "b", 254, 0), device("b", "b", 254, 16), device("null", "c", 254, 0),
                ],
                "resources": {"devices": [
                    rule("b", 254, 0), rule("b", 254, 16), rule("c", 254, 0), rule("b", 8, 0),
                ]},
            },
        }))
        .unwrap();
        // The numbers of the first are the second's on the host.
        let here = HashMap::from([((254, 0), (254, 16)), ((254, 16), (254, 32))]);
        renumber(&mut spec, &here);
        let linux = spec.linux().as_ref().unwrap();
        let minors = |all: Vec<Option<i64>>| all.into_iter().flatten().collect::<Vec<_>>();
        let devices = linux.devices().as_ref().unwrap();
        let found = minors(devices.iter().map(|own| Some(own.minor())).collect());
        assert_eq!(found, [16, 32, 0]);
        let rules = linux.resources().as_ref().unwrap().devices().clone();
        let rules = rules.unwrap();
        let found = minors(rules.iter().map(|own| own.minor()).collect());
        assert_eq!(found, [16, 32, 0, 0]);
    }
}
