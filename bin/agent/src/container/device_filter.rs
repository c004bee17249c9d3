//! Which device nodes a container may open: an eBPF program on its cgroup.
//! Kernel documentation, admin-guide/cgroup-v2, "Device controller";
//! linux/bpf.h.

use std::os::fd::BorrowedFd;

use bulkhead_sys::bpf::{filter_devices, instruction};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

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
    let last = rules(spec).pop();
    last.is_some_and(|rule| rule.allow && rule.fits_everything())
}

fn rules(spec: &Spec) -> Vec<Rule> {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let list = resources
        .and_then(|resources| resources.devices().clone())
        .unwrap_or_default();
    list.iter().take(RULE_LIMIT).map(rule).collect()
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

/// Puts the spec's rules on a cgroup.
pub(super) fn attach(cgroup: BorrowedFd<'_>, spec: &Spec) -> Result<()> {
    let mut list = rules(spec);
    if list.len() == RULE_LIMIT {
        return Err(Error::invalid(format!(
            "more than {RULE_LIMIT} device rules"
        )));
    }
    if allows_everything(spec) {
        return Ok(());
    }
    list.extend(DEFAULT);
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().clone());
    for device in devices.unwrap_or_default() {
        list.push(Rule {
            allow: true,
            kind: Some(if device.typ() == LinuxDeviceType::B {
                BLOCK
            } else {
                CHARACTER
            }),
            major: u32::try_from(device.major()).ok(),
            minor: u32::try_from(device.minor()).ok(),
            access: ALL,
        });
    }
    filter_devices(cgroup, &program(&list)).tried(|| "restrict the container's devices".to_owned())
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
}
