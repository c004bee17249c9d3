use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tests::{spec, told};
use crate::{Adapted, adapt};

fn adapted(devices: &Value, rules: &Value) -> Result<Adapted, Refusal> {
    let own = spec(|value| {
        value["linux"]["devices"] = devices.clone();
        value["linux"]["resources"] = json!({"devices": rules});
    });
    adapt(own, &HashMap::new(), &told())
}

fn rules(adapted: &Adapted) -> Vec<LinuxDeviceCgroup> {
    let linux = adapted.spec.linux().as_ref().unwrap();
    let resources = linux.resources().as_ref().unwrap();
    resources.devices().clone().unwrap_or_default()
}

fn sdb(access: &str) -> (Value, Value) {
    let device = json!([{"path": "/dev/xvda", "type": "b", "major": 8, "minor": 16}]);
    // As containerd writes it: everything denied, then what is allowed.
    let rules = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 8, "minor": 16, "access": access},
    ]);
    (device, rules)
}

#[test]
fn a_block_device_becomes_a_disk_with_the_access_asked_for() {
    for (access, read_only) in [("rwm", false), ("rw", false), ("rm", true), ("r", true)] {
        let (device, asked) = sdb(access);
        let adapted = adapted(&device, &asked).unwrap();
        let disk = BlockDevice {
            major: 8,
            minor: 16,
            read_only,
        };
        assert_eq!(adapted.disks, [disk], "{access}");
        let rules = rules(&adapted);
        assert_eq!(rules.len(), 2);
        assert!(!rules[0].allow() && rules[1].allow());
        assert_eq!(rules[1].access().as_deref(), Some(access));
    }
}

#[test]
fn a_device_under_two_names_is_one_disk() {
    let devices = json!([
        {"path": "/dev/a", "type": "b", "major": 8, "minor": 16},
        {"path": "/dev/b", "type": "b", "major": 8, "minor": 16},
    ]);
    let (_, asked) = sdb("rwm");
    let adapted = adapted(&devices, &asked).unwrap();
    assert_eq!(adapted.disks.len(), 1);
    let linux = adapted.spec.linux().clone().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap().len(), 2);
}

#[test]
fn a_device_no_rule_gives_is_there_and_closed() {
    let (device, _) = sdb("");
    let adapted = adapted(&device, &json!([{"allow": false, "access": "rwm"}])).unwrap();
    assert!(adapted.disks[0].read_only);
    let last = rules(&adapted).pop().unwrap();
    assert!(!last.allow());
    assert_eq!((last.major(), last.minor()), (Some(8), Some(16)));
}

#[test]
fn rules_about_other_disks_of_the_host_open_none_of_the_guests() {
    let asked = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "access": "m"},
        {"allow": true, "type": "b", "major": 254, "minor": 0, "access": "rwm"},
        {"allow": true, "type": "b", "major": 254, "access": "rw"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    ]);
    let adapted = adapted(&json!([]), &asked).unwrap();
    let kept = rules(&adapted);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|rule| rule.major() != Some(254)));
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    for device in [
        json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}),
        json!({"path": "/dev/odd", "type": "b", "major": -1, "minor": 0}),
        json!({"path": "/dev/odd", "type": "b", "major": 4096, "minor": 0}),
        json!({"path": "/dev/odd", "type": "b", "major": 8, "minor": 1 << 20}),
        json!({"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0}),
    ] {
        let path = device["path"].as_str().unwrap().to_owned();
        let text = adapted(&json!([device]), &json!([]))
            .unwrap_err()
            .to_string();
        assert!(text.contains(&path), "{text}");
    }
}

#[test]
fn a_privileged_container_is_given_none_of_the_hosts_disks() {
    let devices = json!([
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232},
        {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
    ]);
    let adapted = adapted(&devices, &json!([{"allow": true, "access": "rwm"}])).unwrap();
    assert!(adapted.disks.is_empty());
    let linux = adapted.spec.linux().clone().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap().len(), 1);
}

fn any_rule() -> impl Strategy<Value = Value> {
    let numbers = (-1i64..3, -1i64..3);
    let kind = prop::sample::select(vec!["a", "b", "c"]);
    (any::<bool>(), kind, numbers, "[rwm]{1,3}").prop_map(|(allow, kind, numbers, access)| {
        json!({"allow": allow, "type": kind, "major": numbers.0, "minor": numbers.1,
               "access": access})
    })
}

fn any_device() -> impl Strategy<Value = Value> {
    (0i64..3, 0i64..3).prop_map(
        |(major, minor)| json!({"path": "/dev/x", "type": "b", "major": major, "minor": minor}),
    )
}

proptest! {
    /// Whatever was asked for, the guest hears of no block device but its
    /// disks, and a disk that can be written is one a rule lets be written.
    #[test]
    fn the_guest_is_told_of_its_disks_only(
        devices in prop::collection::vec(any_device(), 0..4),
        asked in prop::collection::vec(any_rule(), 0..6),
    ) {
        let adapted = adapted(&json!(devices), &json!(asked)).unwrap();
        let is_disk = |major: i64, minor: i64| {
            adapted.disks.iter().find(|disk| {
                (i64::from(disk.major), i64::from(disk.minor)) == (major, minor)
            })
        };
        let rules = rules(&adapted);
        for rule in rules.iter().filter(|rule| is_about_one_block_device(rule)) {
            let disk = is_disk(rule.major().unwrap(), rule.minor().unwrap());
            let writes = rule.allow() && rule.access().as_ref().unwrap().contains('w');
            prop_assert_eq!(disk.map(|disk| disk.read_only), Some(!writes));
        }
        let linux = adapted.spec.linux().clone().unwrap();
        for device in linux.devices().iter().flatten() {
            prop_assert!(is_disk(device.major(), device.minor()).is_some());
        }
    }
}
