//! OCI filters to programs.

use std::io::{Read, Seek};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    ScmpVersion,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use sha2::{Digest, Sha256};

use crate::Error;

/// Rules in a filter at most.
const RULE_LIMIT: usize = 20_000;

/// What `SCMP_ACT_ERRNO` without a number gives: EPERM.
const DEFAULT_ERRNO: i32 = 1;

/// Compiles a filter to an array of `struct sock_filter`, ready for
/// seccomp(2).
///
/// Names the library does not know are ignored, as runc does: a profile lists
/// system calls of kernels to come.
///
/// # Errors
/// [`Error::Unsupported`] for actions that need a supervisor on the host,
/// [`Error::TooLarge`], [`Error::Compile`].
pub fn compile(filter: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let default = action(filter.default_action(), filter.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(Error::Compile)?;
    context.set_ctl_nnp(false).map_err(Error::Compile)?;
    // Binary search instead of a chain of comparisons: hundreds of rules.
    context.set_ctl_optimize(2).map_err(Error::Compile)?;
    for wanted in filter.architectures().iter().flatten() {
        context
            .add_arch(architecture(*wanted)?)
            .map_err(Error::Compile)?;
    }
    let rules = filter.syscalls().iter().flatten();
    let count: usize = rules.clone().map(|rule| rule.names().len()).sum();
    if count > RULE_LIMIT {
        return Err(Error::TooLarge(format!("{count} rules")));
    }
    for rule in rules {
        add(&mut context, rule, default)?;
    }
    export(&context)
}

/// What tells a filter's program from all others: hexadecimal digits that are the
/// same for the same filter and version of libseccomp.
///
/// # Errors
/// [`Error::Compile`] when the library does not say its version.
pub fn fingerprint(filter: &LinuxSeccomp) -> Result<String, Error> {
    let version = ScmpVersion::current().map_err(Error::Compile)?;
    let mut hash = Sha256::new();
    hash.update(format!("{version:?}\n"));
    hash.update(serde_json::to_vec(filter).map_err(Error::Malformed)?);
    Ok(hex::encode(hash.finalize()))
}

/// libseccomp before 2.6 writes programs to descriptors only.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let memfd = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| Error::Memory(error.into()))?;
    context.export_bpf(&memfd).map_err(Error::Compile)?;
    let mut file = std::fs::File::from(memfd);
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(Error::Memory)?;
    Ok(program)
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<(), Error> {
    let action = action(rule.action(), rule.errno_ret())?;
    // The library refuses rules that change nothing.
    if action == default {
        return Ok(());
    }
    let arguments = rule.args().iter().flatten().collect::<Vec<_>>();
    for name in rule.names() {
        let Ok(syscall) = ScmpSyscall::from_name(name) else {
            continue;
        };
        if arguments.is_empty() {
            context.add_rule(action, syscall).map_err(Error::Compile)?;
            continue;
        }
        // Several conditions on one argument cannot be one rule; runc takes
        // them as alternatives.
        let mut indexes: Vec<usize> = arguments.iter().map(|argument| argument.index()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let comparisons = arguments
            .iter()
            .map(|a| comparison(a))
            .collect::<Result<Vec<_>, _>>()?;
        if indexes.len() == arguments.len() {
            context
                .add_rule_conditional(action, syscall, &comparisons)
                .map_err(Error::Compile)?;
        } else {
            for one in comparisons {
                context
                    .add_rule_conditional(action, syscall, &[one])
                    .map_err(Error::Compile)?;
            }
        }
    }
    Ok(())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let errno = errno
        .and_then(|errno| i32::try_from(errno).ok())
        .unwrap_or(DEFAULT_ERRNO);
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        other => return Err(Error::Unsupported(other.to_string())),
    })
}

fn architecture(wanted: Arch) -> Result<ScmpArch, Error> {
    Ok(match wanted {
        Arch::ScmpArchX86_64 | Arch::ScmpArchNative => ScmpArch::X8664,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX32 => ScmpArch::X32,
        other => return Err(Error::Unsupported(other.to_string())),
    })
}

fn comparison(argument: &LinuxSeccompArg) -> Result<ScmpArgCompare, Error> {
    let index = u32::try_from(argument.index())
        .ok()
        .filter(|index| *index < 6);
    let index =
        index.ok_or_else(|| Error::Unsupported(format!("argument {}", argument.index())))?;
    let two = argument.value_two().unwrap_or(0);
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(argument.value()), two)
        }
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;
    use crate::Profile;

    #[test]
    fn the_default_profile_compiles_to_whole_instructions() {
        let filter = Profile::parse(crate::DEFAULT_PROFILE)
            .unwrap()
            .resolve(&[])
            .unwrap();
        let program = compile(&filter).unwrap();
        assert_eq!(program.len() % 8, 0);
        assert!(
            (100..4096).contains(&(program.len() / 8)),
            "{}",
            program.len() / 8
        );
    }

    #[test]
    fn filters_are_told_apart() {
        let of = |capabilities: &[Capability]| {
            let profile = Profile::parse(crate::DEFAULT_PROFILE).unwrap();
            let filter = profile.resolve(capabilities).unwrap();
            fingerprint(&filter).unwrap()
        };
        assert_eq!(of(&[]), of(&[]));
        assert_ne!(of(&[]), of(&[Capability::SysAdmin]));
    }

    #[test]
    fn a_supervisor_on_the_host_is_refused() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        let filter = Profile::parse(text).unwrap().resolve(&[]).unwrap();
        assert!(compile(&filter).unwrap_err().to_string().contains("NOTIFY"));
    }

    #[test]
    fn names_of_kernels_to_come_are_ignored() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["no_such_call","read"],"action":"SCMP_ACT_ERRNO"}]}"#;
        compile(&Profile::parse(text).unwrap().resolve(&[]).unwrap()).unwrap();
    }
}
