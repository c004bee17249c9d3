//! When a process gets the processor and the disk, and as what kind of Linux
//! it sees itself. Applied to the calling thread, which executes the command.

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use rustix::thread::CpuSet;

use super::error::{Error, Result, Tried};
use super::syscalls::{self, SchedulingAttributes};

/// Levels of an I/O priority class. linux/ioprio.h.
const IO_LEVELS: std::ops::Range<i64> = 0..8;

/// Scheduler and I/O priority, while the rights to raise them last.
pub(super) fn apply(process: &Process) -> Result<()> {
    if let Some(wanted) = process.scheduler() {
        syscalls::sched_setattr(&attributes(wanted)?)
            .tried(|| format!("set the scheduler {:?}", wanted.policy()))?;
    }
    if let Some(wanted) = process.io_priority() {
        let value = io_priority(wanted)?;
        syscalls::ioprio_set(value).tried(|| format!("set the I/O priority {value:#x}"))?;
    }
    Ok(())
}

/// linux/sched/types.h, struct sched_attr.
fn attributes(wanted: &Scheduler) -> Result<SchedulingAttributes> {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        LinuxSchedulerPolicy::SchedIso => return Err(Error::invalid("Linux has no SCHED_ISO")),
    };
    let flags = wanted.flags().iter().flatten();
    let priority = wanted.priority().unwrap_or(0);
    Ok(SchedulingAttributes {
        size: SchedulingAttributes::SIZE,
        policy: policy.cast_unsigned(),
        flags: flags.fold(0, |all, one| all | flag(one)),
        nice: wanted.nice().unwrap_or(0),
        priority: u32::try_from(priority)
            .map_err(|_| Error::invalid(format!("the scheduler's priority {priority}")))?,
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
    })
}

/// linux/sched.h.
fn flag(flag: &LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// linux/ioprio.h: class and level in one word.
fn io_priority(wanted: &LinuxIOPriority) -> Result<i32> {
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = wanted.priority();
    if !IO_LEVELS.contains(&level) {
        return Err(Error::invalid(format!(
            "the I/O priority {level} is not between 0 and 7"
        )));
    }
    Ok(class << 13 | level as i32)
}

/// The execution domain: what `uname -m` says to 32-bit programs. personality(2).
pub(super) fn personality(wanted: &LinuxPersonality) -> Result<()> {
    // linux/personality.h: PER_LINUX, PER_LINUX32.
    let domain = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    syscalls::personality(domain).tried(|| "set the personality".to_owned())
}

/// Processors a further process starts on, and those it then runs on: all that
/// its control group has, where only the first is asked for.
pub(super) fn affinity(wanted: &ExecCPUAffinity) -> Result<()> {
    let initial = wanted.initial().as_deref().map(processors).transpose()?;
    let last = wanted.cpu_affinity_final().as_deref();
    let last = last.map(processors).transpose()?;
    let every = || (0..CpuSet::MAX_CPU).fold(CpuSet::new(), with);
    let sets = [initial, last.or_else(|| initial.map(|_| every()))];
    for set in sets.into_iter().flatten() {
        rustix::thread::sched_setaffinity(None, &set)
            .tried(|| "set the processors of the process".to_owned())?;
    }
    Ok(())
}

fn with(mut set: CpuSet, processor: usize) -> CpuSet {
    set.set(processor);
    set
}

/// "0-3,7" as taskset(1) writes it.
fn processors(list: &str) -> Result<CpuSet> {
    let wrong = || Error::invalid(format!("`{list}` is no list of processors"));
    let mut set = CpuSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(wrong());
        }
        set = (first..=last).fold(set, with);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn process(extra: &Value) -> Process {
        let mut whole = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
        whole
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    /// On a thread of its own: what is set there ends with it.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn the_kernel_has_what_was_asked() {
        let wanted = process(&json!({
            "scheduler": {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_RESET_ON_FORK"]},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        }));
        let (scheduler, io) = apart(|| {
            apply(&wanted).unwrap();
            (
                syscalls::sched_getattr().unwrap(),
                syscalls::ioprio_get().unwrap(),
            )
        });
        assert_eq!(scheduler.policy, libc::SCHED_BATCH.cast_unsigned());
        assert_eq!((scheduler.nice, scheduler.flags), (5, 1));
        assert_eq!(io, 2 << 13 | 6);
    }

    #[test]
    fn thirty_two_bits_are_what_uname_says() {
        let wanted = serde_json::from_value(json!({"domain": "LINUX32"})).unwrap();
        let machine = apart(|| {
            personality(&wanted).unwrap();
            rustix::system::uname().machine().to_owned()
        });
        assert_eq!(machine.to_str(), Ok("i686"));
    }

    #[test]
    fn a_process_runs_where_it_was_put() {
        let wanted: ExecCPUAffinity =
            serde_json::from_value(json!({"initial": "0", "final": "0"})).unwrap();
        let count = apart(|| {
            affinity(&wanted).unwrap();
            rustix::thread::sched_getaffinity(None).unwrap().count()
        });
        assert_eq!(count, 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for extra in [
            json!({"scheduler": {"policy": "SCHED_FIFO", "priority": -1}}),
            json!({"scheduler": {"policy": "SCHED_OTHER", "priority": 7}}),
            json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}),
        ] {
            let wanted = process(&extra);
            assert!(apart(|| apply(&wanted)).is_err(), "{extra}");
        }
        for list in ["", "a", "3-1", "99999", "1,,2", "-"] {
            assert!(processors(list).is_err(), "{list}");
        }
    }
}
