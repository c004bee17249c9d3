//! The little of bpf(2) that is used: programs loaded, put on a control group,
//! and one that hands the connections to a network namespace's loopback
//! interface to one socket. linux/bpf.h; Documentation/bpf/prog_sk_lookup.rst.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const LINK_CREATE: u32 = 28;

const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ATTACH_SK_LOOKUP: u32 = 36;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const LOAD_IMMEDIATE_64: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const JUMP_IF_NOT: u8 = 0x55;
const JUMP_IF: u8 = 0x15;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MAP_DESCRIPTOR: u8 = 1;

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// struct bpf_sk_lookup.
const PROTOCOL: i16 = 12;
const INGRESS_INTERFACE: i16 = 64;

const TCP: i32 = 6;

/// The loopback interface is the first of every network namespace.
const LOOPBACK: i32 = 1;

/// "Every TCP connection over the loopback interface, whatever its port, is
/// for the socket in the map."
fn program(map: i32) -> [u64; 21] {
    [
        instruction(MOVE, 6, 1, 0, 0),
        instruction(LOAD_WORD, 0, 6, PROTOCOL, 0),
        instruction(JUMP_IF_NOT, 0, 0, 16, TCP),
        instruction(LOAD_WORD, 0, 6, INGRESS_INTERFACE, 0),
        instruction(JUMP_IF_NOT, 0, 0, 14, LOOPBACK),
        instruction(STORE_WORD, 10, 0, -4, 0),
        instruction(LOAD_IMMEDIATE_64, 1, MAP_DESCRIPTOR, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMMEDIATE, 2, 0, 0, -4),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(JUMP_IF, 0, 0, 7, 0),
        instruction(MOVE, 7, 0, 0, 0),
        instruction(MOVE, 1, 6, 0, 0),
        instruction(MOVE, 2, 7, 0, 0),
        instruction(MOVE_IMMEDIATE, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, SK_ASSIGN),
        instruction(MOVE, 1, 7, 0, 0),
        instruction(CALL, 0, 0, 0, SK_RELEASE),
        // Where all three jumps go: "look further, as you would".
        instruction(MOVE_IMMEDIATE, 0, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// Makes every TCP connection over a network namespace's loopback interface
/// one of `listener`'s, a listening socket of that namespace. Ends when what
/// comes back is closed.
///
/// # Errors
/// What bpf(2) says: `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`, `EINVAL`
/// or `EACCES` before Linux 5.17.
pub fn take_loopback(listener: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let map = descriptor(MAP_CREATE, &mut [pair(MAP_TYPE_SOCKMAP, 4), pair(8, 1), 0])?;
    let key = 0_u32;
    let value = u64::try_from(listener.as_raw_fd()).unwrap_or(u64::MAX);
    let mut update = [
        pair(map.as_raw_fd().cast_unsigned(), 0),
        &raw const key as u64,
        &raw const value as u64,
        0,
    ];
    call(MAP_UPDATE_ELEM, &mut update)?;
    let program = load(
        PROG_TYPE_SK_LOOKUP,
        ATTACH_SK_LOOKUP,
        &program(map.as_raw_fd()),
    )?;
    let attach = pair(
        program.as_raw_fd().cast_unsigned(),
        namespace.as_raw_fd().cast_unsigned(),
    );
    descriptor(LINK_CREATE, &mut [attach, pair(ATTACH_SK_LOOKUP, 0)])
}

/// struct bpf_insn as a number: opcode, destination register, source register,
/// offset, immediate value.
/// Documentation/bpf/standardization/instruction-set.rst.
pub fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(from << 4 | to) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

/// Puts a program on a cgroup of version 2 that decides which devices its
/// processes may use: in the place of `old`, with no moment between, or beside
/// those that are there. It stays as long as the cgroup; what comes back names
/// it to a later call. BPF_PROG_TYPE_CGROUP_DEVICE.
///
/// # Errors
/// What bpf(2) says: `EPERM` without the rights, `EINVAL` or `EACCES` for a
/// program the verifier refuses, `ENOENT` when `old` is not on the cgroup.
pub fn filter_devices(
    cgroup: BorrowedFd<'_>,
    program: &[u64],
    old: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let loaded = load(PROG_TYPE_CGROUP_DEVICE, 0, program)?;
    let flags = ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 };
    let mut attributes = [
        devices_of(cgroup, loaded.as_fd()),
        pair(ATTACH_CGROUP_DEVICE, flags),
        pair(old.map_or(0, |old| old.as_raw_fd().cast_unsigned()), 0),
    ];
    call(PROG_ATTACH, &mut attributes).map(|_| loaded)
}

/// Takes a program off a cgroup that [`filter_devices`] put there.
///
/// # Errors
/// What bpf(2) says: `ENOENT` when it is not there.
pub fn unfilter_devices(cgroup: BorrowedFd<'_>, old: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = [devices_of(cgroup, old), pair(ATTACH_CGROUP_DEVICE, 0)];
    call(PROG_DETACH, &mut attributes).map(drop)
}

fn devices_of(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> u64 {
    pair(
        cgroup.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
    )
}

/// Loads a program of a type, for an attach type where that type wants one.
fn load(kind: u32, attach: u32, program: &[u64]) -> io::Result<OwnedFd> {
    let licence = c"Apache-2.0";
    let count = u32::try_from(program.len()).unwrap_or(u32::MAX);
    let mut attributes = [0_u64; 9];
    attributes[0] = pair(kind, count);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    // Behind name and interface: the expected attach type.
    attributes[8] = pair(0, attach);
    descriptor(PROG_LOAD, &mut attributes)
}

/// Two words of an attribute block, in the order of this machine.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn descriptor(command: u32, attributes: &mut [u64]) -> io::Result<OwnedFd> {
    let number = call(command, attributes)?;
    // SAFETY: these commands answer a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn call(command: u32, attributes: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the block lives through the call and its length is told. The
    // pointers in it are to the callers' key, value, program and licence,
    // which live as long and which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number as i32),
    }
}
