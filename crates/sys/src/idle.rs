//! Work that can wait: sched(7), ioprio_set(2).

use std::io;

// linux/ioprio.h.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Lets everybody else go first: the calling thread, and what it starts from now
/// on, runs and reads disks only when nobody else wants to.
///
/// # Errors
/// What the kernel says; the thread may be idle in one of both ways then.
pub fn idle() -> io::Result<()> {
    let zero = libc::sched_param { sched_priority: 0 };
    // SAFETY: `zero` lives through the call and is only read; 0 is the caller.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const zero) };
    if scheduled == -1 {
        return Err(io::Error::last_os_error());
    }
    let priority = IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT;
    // SAFETY: three numbers; 0 is the caller.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    if set == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_thread_says_so() {
        std::thread::spawn(|| {
            idle().unwrap();
            // SAFETY: no argument but the caller's own number.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_IDLE);
        })
        .join()
        .unwrap();
    }
}
