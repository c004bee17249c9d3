//! Can this host really run guests by KVM?
//!
//! Opening `/dev/kvm` and making a machine succeeds on hosts whose KVM cannot
//! run a kernel (paravirtual modules without hardware virtualization, broken
//! nesting). So the probe runs some ring-0 instructions that every kernel
//! uses in a real vCPU, and times them.

use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

/// A probed, usable KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Mean processor time of a round of privileged instructions, nanoseconds.
    pub round_ns: u64,
}

/// Why KVM is of no use here.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The device is missing or closed to us.
    #[error("`/dev/kvm` cannot be opened: {0}; {hint}", hint = open_hint(.0))]
    Open(#[source] kvm_ioctls::Error),
    /// An ioctl failed.
    #[error("KVM refused to {step}: {source}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// The kernel's reason.
        source: kvm_ioctls::Error,
    },
    /// The vCPU gave up on an ordinary instruction.
    #[error(
        "`/dev/kvm` opens, but a virtual processor stops at an ordinary kernel \
         instruction ({0}): there is no hardware virtualization behind it; \
         enable nested virtualization on the machine below this one"
    )]
    Emulated(String),
    /// It works, far too slowly.
    #[error(
        "KVM needs {0} us for a round of privileged instructions: they are emulated, not run; \
         enable nested virtualization on the machine below this one"
    )]
    Slow(u64),
}

fn open_hint(error: &kvm_ioctls::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "load the module `kvm_intel` or `kvm_amd`, and enable virtualization in the firmware"
        }
        libc::EACCES | libc::EPERM => "join the group `kvm` or run as root",
        _ => "see kvm(4)",
    }
}

const ROUNDS: u32 = 1000;
/// Runs before a host is called too slow: one below another that is busy is
/// not always.
const TRIES: u32 = 5;
const MEMORY: usize = 64 << 10;
const PAGE_TABLES: u64 = 0x1000;
const CODE: u64 = 0x5000;
const DONE_PORT: u16 = 0x10;

/// A round above this is emulation. Hardware needs well under 1 us, nested
/// hardware a few.
const SLOW: Duration = Duration::from_micros(50);

/// 64-bit code: ROUNDS times { reload cr3; lock cmpxchg16b [0x6000] }, then
/// `out 0x10, al`. Both instructions are what broken KVMs fail at.
#[rustfmt::skip]
const PROGRAM: [u8; 28] = [
    0xb9, 0xe8, 0x03, 0x00, 0x00,                               // mov ecx, 1000
    0x0f, 0x20, 0xd8,                                           // mov rax, cr3
    0x0f, 0x22, 0xd8,                                           // mov cr3, rax
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x60, 0x00, 0x00, // lock cmpxchg16b [0x6000]
    0xff, 0xc9,                                                 // dec ecx
    0x75, 0xec,                                                 // jnz back to mov rax, cr3
    0xe6, DONE_PORT as u8,                                      // out 0x10, al
    0xf4,                                                       // hlt
];

/// Runs the probe; takes a few milliseconds.
///
/// # Errors
/// [`Unusable`], with what to do about it.
pub fn probe() -> Result<Timing, Unusable> {
    let kvm = Kvm::new().map_err(Unusable::Open)?;
    let refused = |step| move |source| Unusable::Refused { step, source };
    // Before the machine, so that it is dropped after it.
    let memory = Memory::new();
    let vm = kvm.create_vm().map_err(refused("create a machine"))?;
    memory.write(PAGE_TABLES, &(0x2003u64).to_le_bytes());
    memory.write(0x2000, &(0x3003u64).to_le_bytes());
    memory.write(0x3000, &(0x83u64).to_le_bytes());
    memory.write(CODE, &PROGRAM);
    memory.give_to(&vm).map_err(refused("map memory"))?;
    let vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("list CPU features"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(refused("set CPU features"))?;
    enter_long_mode(&vcpu).map_err(refused("set registers"))?;
    time_run(vcpu)
}

fn time_run(mut vcpu: VcpuFd) -> Result<Timing, Unusable> {
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let refused = |source| Unusable::Refused {
            step: "set registers",
            source,
        };
        start_at_code(&vcpu).map_err(refused)?;
        least = least.min(round(&mut vcpu)?);
        if least <= SLOW {
            return Ok(Timing {
                round_ns: least.as_nanos() as u64,
            });
        }
    }
    Err(Unusable::Slow(least.as_micros() as u64))
}

/// One run of the program: the processor time of a round. What else the host
/// does meanwhile is not the vCPU's.
fn round(vcpu: &mut VcpuFd) -> Result<Duration, Unusable> {
    let start = processor_time();
    match vcpu.run() {
        Ok(VcpuExit::IoOut(DONE_PORT, _)) => {}
        Ok(other) => return Err(Unusable::Emulated(format!("{other:?}"))),
        Err(error) => return Err(Unusable::Emulated(error.to_string())),
    }
    Ok(processor_time().saturating_sub(start) / ROUNDS)
}

/// clock_gettime(2), CLOCK_THREAD_CPUTIME_ID.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let segment = |type_: u8, l: u8, db: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 8,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(0xb, 1, 0);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.ss,
        &mut sregs.fs,
        &mut sregs.gs,
    ] {
        *data = segment(3, 0, 1);
    }
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 0x20; // PAE
    sregs.cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
    sregs.efer = 0x500; // LME LMA
    vcpu.set_sregs(&sregs)
}

fn start_at_code(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut regs = vcpu.get_regs()?;
    regs.rip = CODE;
    regs.rflags = 2;
    regs.rsp = 0x8000;
    vcpu.set_regs(&regs)
}

/// Guest memory of the probe, page-aligned as KVM demands.
struct Memory {
    address: *mut u8,
}

impl Memory {
    fn new() -> Self {
        // SAFETY: an anonymous mapping at an address of the kernel's choice
        // touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(
            address != libc::MAP_FAILED,
            "64 KiB of memory can be mapped"
        );
        Self {
            address: address.cast(),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        assert!(
            at + bytes.len() <= MEMORY,
            "the probe's own constants fit its memory"
        );
        // SAFETY: the range was checked to lie in the mapping, which nothing
        // else refers to while no vCPU runs.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(at), bytes.len());
        }
    }

    fn give_to(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: self.address as u64,
            flags: 0,
        };
        // SAFETY: the mapping is MEMORY bytes long and outlives the machine:
        // `probe` drops the vCPU and the machine before the memory, and the
        // guest's writes go nowhere but there.
        unsafe { vm.set_user_memory_region(region) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference remains.
        unsafe { libc::munmap(self.address.cast(), MEMORY) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_quickly_and_says_what_to_do() {
        match probe() {
            Ok(timing) => assert!(timing.round_ns > 0),
            Err(reason) => {
                let text = reason.to_string();
                assert!(text.contains("kvm") || text.contains("KVM"), "{text}");
            }
        }
    }
}
