//! Which device nodes a container may open: an eBPF program on its cgroup.
//! Kernel documentation, admin-guide/cgroup-v2, "Device controller";
//! linux/bpf.h.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_sys::bpf::{filter_devices, instruction, unfilter_devices};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};

use super::error::{Error, Result, Tried};

/// Rules at most; a program of them stays far below the verifier's limit.
const RULE_LIMIT: usize = 512;

const CHARACTER: u32 = 2;
const BLOCK: u32 = 1;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// One rule; `None` fits everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    fn fits_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor,
        access: ALL,
    }
}

/// What every container may: runc's default list. Making nodes is harmless,
/// opening them is what counts.
const DEFAULT: [Rule; 10] = [
    Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: None,
        minor: None,
        access: MKNOD,
    },
    Rule {
        allow: true,
        kind: Some(BLOCK),
        major: None,
        minor: None,
        access: MKNOD,
    },
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(2)),
    character(136, None),
];

/// Does the spec give every device? That is how `--privileged` is said.
pub(super) fn allows_everything(spec: &Spec) -> bool {
    ends_open(&rules(spec))
}

fn ends_open(rules: &[Rule]) -> bool {
    let last = rules.last();
    last.is_some_and(|rule| rule.allow && rule.fits_everything())
}

fn rules(spec: &Spec) -> Vec<Rule> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    resources.map(listed).unwrap_or_default()
}

fn listed(resources: &LinuxResources) -> Vec<Rule> {
    let list = resources.devices().iter().flatten();
    list.take(RULE_LIMIT).map(rule).collect()
}

fn rule(device: &LinuxDeviceCgroup) -> Rule {
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let access = device.access().as_deref().unwrap_or("rwm");
    let bit = |letter: char, bit: u32| if access.contains(letter) { bit } else { 0 };
    Rule {
        allow: device.allow(),
        kind: match device.typ() {
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            Some(LinuxDeviceType::B) => Some(BLOCK),
            _ => None,
        },
        major: number(device.major()),
        minor: number(device.minor()),
        access: bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE),
    }
}

/// What decides on a container's devices.
#[derive(Debug)]
pub(super) struct DeviceFilter {
    /// Nodes the spec has made, which may be opened whatever the rules for all
    /// devices say.
    nodes: Vec<Rule>,
    /// The program on the cgroup; none while everything is allowed.
    program: Option<OwnedFd>,
}

impl DeviceFilter {
    /// Puts the spec's rules on a cgroup.
    pub(super) fn attach(cgroup: BorrowedFd<'_>, spec: &Spec) -> Result<Self> {
        let rules = rules(spec);
        let mut filter = Self {
            nodes: nodes(spec, &rules),
            program: None,
        };
        filter.apply(cgroup, rules)?;
        Ok(filter)
    }

    /// Puts other rules in the place of those that hold; without any they stay.
    pub(super) fn update(
        &mut self,
        cgroup: BorrowedFd<'_>,
        resources: &LinuxResources,
    ) -> Result<()> {
        match listed(resources) {
            none if none.is_empty() => Ok(()),
            rules => self.apply(cgroup, rules),
        }
    }

    fn apply(&mut self, cgroup: BorrowedFd<'_>, mut rules: Vec<Rule>) -> Result<()> {
        let what = || "restrict the container's devices".to_owned();
        if rules.len() == RULE_LIMIT {
            return Err(Error::invalid(format!(
                "more than {RULE_LIMIT} device rules"
            )));
        }
        if ends_open(&rules) {
            if let Some(old) = &self.program {
                unfilter_devices(cgroup, old.as_fd()).tried(what)?;
            }
            self.program = None;
            return Ok(());
        }
        rules.extend(DEFAULT);
        rules.extend(&self.nodes);
        let old = self.program.as_ref().map(AsFd::as_fd);
        self.program = Some(filter_devices(cgroup, &program(&rules), old).tried(what)?);
        Ok(())
    }
}

/// A rule for each node of the spec that has none of its own. What a disk may be
/// used for is said by a rule.
fn nodes(spec: &Spec, rules: &[Rule]) -> Vec<Rule> {
    let devices = spec.linux().as_ref().map(|linux| linux.devices());
    let nodes = devices.into_iter().flatten().flatten().map(node);
    let is_said = |node: &Rule| {
        let own = |rule: &Rule| (rule.kind, rule.major, rule.minor);
        node.kind == Some(BLOCK) && rules.iter().any(|rule| own(rule) == own(node))
    };
    nodes.filter(|node| !is_said(node)).collect()
}

fn node(device: &LinuxDevice) -> Rule {
    Rule {
        allow: true,
        kind: Some(match device.typ() {
            LinuxDeviceType::B => BLOCK,
            _ => CHARACTER,
        }),
        major: u32::try_from(device.major()).ok(),
        minor: u32::try_from(device.minor()).ok(),
        access: ALL,
    }
}

const LOAD_WORD: u8 = 0x61;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const MOVE_32: u8 = 0xb4;
const MOVE_REGISTER_32: u8 = 0xbc;
const JUMP_NOT_EQUAL_32: u8 = 0x56;
const JUMP_EQUAL_32: u8 = 0x16;
const EXIT: u8 = 0x95;

/// struct bpf_cgroup_dev_ctx: access type (kind | access << 16), major,
/// minor; registers 2 kind, 3 access, 4 major, 5 minor. The first rule of the
/// list that was written last wins, as in cgroup v1.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER_32, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT_32, 3, 0, 0, 16),
        instruction(AND_32, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(one(rule));
        if rule.fits_everything() {
            // The verifier refuses a program with a part nothing reaches.
            return code;
        }
    }
    code.extend([
        instruction(MOVE_32, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    code
}

fn one(rule: &Rule) -> Vec<u64> {
    // Register and value that have to be equal.
    let mut tests: Vec<(u8, u32)> = Vec::new();
    tests.extend(rule.kind.map(|kind| (2, kind)));
    tests.extend(rule.major.map(|major| (4, major)));
    tests.extend(rule.minor.map(|minor| (5, minor)));
    let mut code = Vec::new();
    let with_access = rule.access != ALL;
    // An allowance fits what asks for nothing beyond it; a denial fits what
    // asks for anything in it, or opening for more would get around it.
    let (mask, jump_code) = if rule.allow {
        (!rule.access & 0xffff, JUMP_NOT_EQUAL_32)
    } else {
        (rule.access, JUMP_EQUAL_32)
    };
    let length = tests.len() + if with_access { 3 } else { 0 } + 2;
    let skip = |at: usize| (length - at - 1) as i16;
    for (register, value) in tests {
        let jump = skip(code.len());
        code.push(instruction(
            JUMP_NOT_EQUAL_32,
            register,
            0,
            jump,
            value.cast_signed(),
        ));
    }
    if with_access {
        code.push(instruction(MOVE_REGISTER_32, 1, 3, 0, 0));
        code.push(instruction(AND_32, 1, 0, 0, mask.cast_signed()));
        let jump = skip(code.len());
        code.push(instruction(jump_code, 1, 0, jump, 0));
    }
    code.push(instruction(MOVE_32, 0, 0, 0, i32::from(rule.allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(code: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let word = code[at];
            let (destination, source) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, immediate) = ((word >> 16) as u16 as i16, (word >> 32) as u32);
            at += 1;
            match word as u8 {
                LOAD_WORD => registers[destination] = context[offset as usize / 4],
                AND_32 => registers[destination] &= immediate,
                SHIFT_RIGHT_32 => registers[destination] >>= immediate,
                MOVE_32 => registers[destination] = immediate,
                MOVE_REGISTER_32 => registers[destination] = registers[source],
                JUMP_NOT_EQUAL_32 if registers[destination] != immediate => {
                    at += offset as usize;
                }
                JUMP_EQUAL_32 if registers[destination] == immediate => at += offset as usize,
                JUMP_NOT_EQUAL_32 | JUMP_EQUAL_32 => {}
                EXIT => return registers[0] != 0,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_opens_null_and_no_disk() {
        let code = program(&DEFAULT);
        assert!(run(&code, CHARACTER, READ | WRITE, 1, 3));
        assert!(run(&code, CHARACTER, READ | WRITE, 136, 7));
        assert!(run(&code, BLOCK, MKNOD, 254, 0));
        assert!(!run(&code, BLOCK, READ, 254, 0));
        assert!(!run(&code, BLOCK, READ | MKNOD, 254, 0));
        assert!(!run(&code, CHARACTER, READ, 1, 1));
    }

    #[test]
    fn a_disk_is_opened_as_its_rule_says_and_any_other_node_as_it_is() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "linux": {
                "devices": [
                    {"path": "/dev/xvda", "type": "b", "major": 254, "minor": 16},
                    {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
                ],
                "resources": {"devices": [
                    {"allow": false, "access": "rwm"},
                    {"allow": true, "type": "b", "major": 254, "minor": 16, "access": "r"},
                ]},
            },
        }))
        .unwrap();
        let mut rules = rules(&spec);
        let nodes = nodes(&spec, &rules);
        rules.extend(DEFAULT);
        rules.extend(nodes);
        let code = program(&rules);
        assert!(run(&code, BLOCK, READ, 254, 16));
        assert!(!run(&code, BLOCK, READ | WRITE, 254, 16));
        assert!(!run(&code, BLOCK, READ, 254, 0));
        assert!(run(&code, CHARACTER, READ | WRITE, 10, 200));
    }

    #[test]
    fn a_denied_write_is_denied_to_who_also_reads() {
        let disk = |allow, access| Rule {
            allow,
            kind: Some(BLOCK),
            major: Some(254),
            minor: Some(0),
            access,
        };
        let code = program(&[disk(true, ALL), disk(false, WRITE)]);
        assert!(run(&code, BLOCK, READ, 254, 0));
        assert!(!run(&code, BLOCK, WRITE, 254, 0));
        assert!(!run(&code, BLOCK, READ | WRITE, 254, 0));
    }

    #[test]
    fn nothing_stands_behind_a_rule_that_fits_everything() {
        // As containerd writes it: everything denied, then what is allowed.
        let deny = Rule {
            allow: false,
            kind: None,
            major: None,
            minor: None,
            access: ALL,
        };
        let code = program(&[deny, character(1, Some(3))]);
        assert!(run(&code, CHARACTER, READ, 1, 3));
        assert!(!run(&code, CHARACTER, READ, 1, 4));
        // A jump over the part in front of the last two instructions lands in
        // them: the kernel's verifier wants every instruction reached.
        assert_eq!(code.len(), program(&[character(1, Some(3))]).len());
    }

    #[test]
    fn the_last_rule_that_fits_wins() {
        let disk = |allow, access| Rule {
            allow,
            kind: Some(BLOCK),
            major: Some(254),
            minor: None,
            access,
        };
        let code = program(&[disk(true, ALL), disk(false, WRITE)]);
        assert!(run(&code, BLOCK, READ, 254, 1));
        assert!(!run(&code, BLOCK, WRITE, 254, 1));
    }

    /// A control group of version 2 that is mounted nowhere, and the way to ask
    /// whether a process in it may open a device.
    struct Group {
        root: OwnedFd,
        name: String,
        fd: OwnedFd,
    }

    impl Group {
        fn make() -> Self {
            use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
            let context = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)
                .expect("this test mounts, which takes root");
            rustix::mount::fsconfig_create(&context).unwrap();
            let flags = FsMountFlags::FSMOUNT_CLOEXEC;
            let root = rustix::mount::fsmount(&context, flags, MountAttrFlags::empty()).unwrap();
            let name = format!("bulkhead-test-{}", std::process::id());
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(&root, &name, mode).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&root, &name, flags, mode).unwrap();
            Self { root, name, fd }
        }

        fn may_open(&self, device: &str) -> bool {
            use std::io::Write;
            let mut child = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("read go; exec 3< {device}")])
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::empty();
            let list = rustix::fs::openat(&self.fd, "cgroup.procs", flags, mode).unwrap();
            rustix::io::write(&list, child.id().to_string().as_bytes()).unwrap();
            child.stdin.take().unwrap().write_all(b"go\n").unwrap();
            child.wait().unwrap().success()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let flags = rustix::fs::AtFlags::REMOVEDIR;
            let _ = rustix::fs::unlinkat(&self.root, &self.name, flags);
        }
    }

    fn update(filter: &mut DeviceFilter, group: &Group, rules: &serde_json::Value) {
        let resources = serde_json::json!({ "devices": rules });
        let resources = serde_json::from_value(resources).unwrap();
        filter.update(group.fd.as_fd(), &resources).unwrap();
    }

    #[test]
    fn an_update_replaces_the_rules_and_stacks_nothing() {
        use serde_json::json;
        let group = Group::make();
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        }))
        .unwrap();
        let mut filter = DeviceFilter::attach(group.fd.as_fd(), &spec).unwrap();
        let log = "/dev/kmsg";
        let seen = |group: &Group| (group.may_open("/dev/null"), group.may_open(log));
        assert_eq!(seen(&group), (true, false));
        let opened = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]);
        // A filter beside the first would leave its refusal standing.
        update(&mut filter, &group, &opened);
        assert_eq!(seen(&group), (true, true));
        update(&mut filter, &group, &json!([]));
        assert_eq!(seen(&group), (true, true), "no rules are no change");
        update(
            &mut filter,
            &group,
            &json!([{"allow": false, "access": "rwm"}]),
        );
        assert_eq!(seen(&group), (true, false));
        update(
            &mut filter,
            &group,
            &json!([{"allow": true, "access": "rwm"}]),
        );
        assert_eq!(seen(&group), (true, true));
        update(
            &mut filter,
            &group,
            &json!([{"allow": false, "access": "rwm"}]),
        );
        assert_eq!(seen(&group), (true, false), "and back");
    }
}
