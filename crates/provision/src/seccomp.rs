//! The system call filter of a spec.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxSeccomp, Spec};

use crate::Error;
use crate::kept::Kept;

/// Bytes of a program at most: BPF_MAXINSNS instructions of eight bytes, bpf(2).
const PROGRAM_LIMIT: usize = 4096 * 8;

/// The program of a spec's filter; empty without one. Compiling one takes longer
/// than anything else before the machine starts, so it is kept.
///
/// # Errors
/// [`Error::Seccomp`] for a filter that cannot be compiled.
pub fn program(spec: &Spec) -> Result<Vec<u8>, Error> {
    let linux = spec.linux().as_ref();
    match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(filter) => program_with(Kept::open("filters").as_ref(), filter),
        None => Ok(Vec::new()),
    }
}

fn program_with(kept: Option<&Kept>, filter: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let name = bulkhead_seccomp::fingerprint(filter)?;
    if let Some(program) = kept.and_then(|kept| read(kept.get(&name)?)) {
        return Ok(program);
    }
    let program = bulkhead_seccomp::compile(filter)?;
    if let Some(kept) = kept {
        kept.put(&name, |file| {
            std::fs::File::from(file.try_clone_to_owned()?).write_all(&program)
        });
    }
    Ok(program)
}

/// A program, if it is whole.
fn read(file: OwnedFd) -> Option<Vec<u8>> {
    let mut program = Vec::new();
    let limit = PROGRAM_LIMIT as u64 + 1;
    let file = std::fs::File::from(file);
    file.take(limit).read_to_end(&mut program).ok()?;
    let whole = (1..=PROGRAM_LIMIT).contains(&program.len()) && program.len() % 8 == 0;
    whole.then_some(program)
}

#[cfg(test)]
mod tests {
    use bulkhead_seccomp::{DEFAULT_PROFILE, Profile};

    use super::*;

    #[test]
    fn a_filter_is_compiled_once() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::at(dir.path()).unwrap();
        let filter = Profile::parse(DEFAULT_PROFILE).unwrap().resolve(&[]);
        let filter = filter.unwrap();
        let compiled = program_with(Some(&kept), &filter).unwrap();
        let name = bulkhead_seccomp::fingerprint(&filter).unwrap();
        assert_eq!(std::fs::read(dir.path().join(&name)).unwrap(), compiled);
        assert_eq!(program_with(Some(&kept), &filter).unwrap(), compiled);

        // It is the kept one that is used, unless it cannot be a program.
        let replace = |bytes: &[u8]| {
            std::fs::remove_file(dir.path().join(&name)).unwrap();
            std::fs::write(dir.path().join(&name), bytes).unwrap();
        };
        replace(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
        assert_eq!(program_with(Some(&kept), &filter).unwrap().len(), 8);
        for damaged in [vec![], vec![0; 9], vec![0; PROGRAM_LIMIT + 8]] {
            replace(&damaged);
            assert_eq!(program_with(Some(&kept), &filter).unwrap(), compiled);
        }
    }
}
