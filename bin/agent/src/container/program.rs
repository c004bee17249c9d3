//! The last steps of a new process: its limits, its user, its program.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::io::Errno;

use super::accounts::{self, FILE_LIMIT, Identity, Unknown};
use super::error::{During, Error, ErrorKind};
use super::rootfs::{Root, read_text, shown};
use super::scheduling;
use super::syscalls::{close_on_exec_from, load_seccomp, setrlimit};
use super::{privileges, rootfs};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A seccomp filter's instructions: BPF_MAXINSNS of the kernel.
const FILTER_LIMIT: usize = 4096;

/// A process to become.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub(super) process: &'a Process,
    /// The image's `user[:group]`, in place of the numbers.
    pub(super) user: Option<&'a str>,
    pub(super) seccomp: Option<&'a [u8]>,
}

/// Who the process is to be, and where their home is.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) identity: Identity,
    home: String,
}

/// What can be refused before anything is made.
pub(super) fn check(process: &Process) -> Result<(), Error> {
    let labels = [
        ("AppArmor", process.apparmor_profile()),
        ("SELinux", process.selinux_label()),
    ];
    for (module, label) in labels {
        if label.as_ref().is_some_and(|label| !label.is_empty() && label != "unconfined") {
            return Err(Error::invalid(format!(
                "{module} does not run in the sandbox: leave out the label"
            )));
        }
    }
    if process.args().as_ref().is_none_or(|args| args.is_empty() || args[0].is_empty()) {
        return Err(Error::invalid("the process has no program to run"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!(
            "the working directory {} is not an absolute path",
            shown(process.cwd())
        )));
    }
    Ok(())
}

impl Program<'_> {
    /// Finds out who to be, in the container's own files.
    pub(super) fn owner(&self, root: &Root) -> Result<Owner, Error> {
        let read = |path: &str| {
            read_text(root, Path::new(path), FILE_LIMIT)
                .during_with(|| format!("`{path}` could not be read"))
        };
        let passwd = read("/etc/passwd")?;
        let user = self.process.user();
        let mut identity = match self.user {
            Some(name) => {
                accounts::resolve(name, &passwd, &read("/etc/group")?).map_err(|unknown| {
                    let (what, name) = match unknown {
                        Unknown::User(name) => ("user", name),
                        Unknown::Group(name) => ("group", name),
                    };
                    Error::invalid(format!("the image has no {what} `{name}`"))
                })?
            }
            None => Identity { uid: user.uid(), gid: user.gid(), groups: Vec::new() },
        };
        for gid in user.additional_gids().iter().flatten() {
            if !identity.groups.contains(gid) {
                identity.groups.push(*gid);
            }
        }
        let home = accounts::home(identity.uid, &passwd).unwrap_or("/").to_owned();
        Ok(Owner { identity, home })
    }

    /// Limits that take privileges to set.
    pub(super) fn limit(&self) -> Result<(), Error> {
        for limit in self.process.rlimits().iter().flatten() {
            let (number, name) = (scheduling::resource(limit.typ()), limit.typ());
            setrlimit(number, limit.soft(), limit.hard())
                .during_with(|| format!("the limit {name} could not be set"))?;
        }
        scheduling::apply(self.process)
    }

    /// Gives up what the process is not to have.
    ///
    /// In runc's order: without no_new_privs a filter takes CAP_SYS_ADMIN to
    /// load, so it comes first; with it, it comes last and need not allow
    /// what happens here.
    pub(super) fn drop_privileges(&self, owner: &Owner) -> Result<(), Error> {
        let umask = self.process.user().umask().unwrap_or(0o022);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask & 0o777));
        // As the first user as well: the directory may be the new user's
        // only, or the old one's only on a network filesystem.
        let entered = enter(self.process.cwd());
        if self.has_no_new_privileges() {
            rustix::thread::set_no_new_privs(true).during("`noNewPrivileges` could not be set")?;
        } else {
            self.filter()?;
        }
        privileges::assume(&owner.identity, self.process.capabilities().as_ref())?;
        if entered.is_err() {
            enter(self.process.cwd())?;
        }
        Ok(())
    }

    fn has_no_new_privileges(&self) -> bool {
        self.process.no_new_privileges().unwrap_or(false)
    }

    fn filter(&self) -> Result<(), Error> {
        const SIZE: usize = size_of::<libc::sock_filter>();
        let Some(bytes) = self.seccomp else { return Ok(()) };
        if bytes.is_empty() || bytes.len() % SIZE != 0 || bytes.len() / SIZE > FILTER_LIMIT {
            return Err(Error::invalid("the seccomp program is not an array of instructions"));
        }
        let instructions: Vec<libc::sock_filter> = bytes
            .chunks_exact(SIZE)
            .map(|chunk| libc::sock_filter {
                code: u16::from_ne_bytes([chunk[0], chunk[1]]),
                jt: chunk[2],
                jf: chunk[3],
                k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
            })
            .collect();
        load_seccomp(&instructions).during("the seccomp program could not be loaded")
    }

    /// Becomes the program.
    pub(super) fn execute(&self, owner: &Owner) -> Result<Infallible, Error> {
        let text = |text: &String| {
            CString::new(text.as_bytes())
                .map_err(|_| Error::invalid("an argument or variable holds a null byte"))
        };
        let args = self.process.args().as_deref().unwrap_or_default();
        let name = args.first().cloned().unwrap_or_default();
        let args = args.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let environment = environment(self.process.env().as_deref().unwrap_or_default(), owner);
        let candidates = candidates(&name, &environment);
        let environment = environment.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let paths = candidates.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        close_on_exec_from(3).during("the descriptors could not be closed")?;
        if self.has_no_new_privileges() {
            self.filter()?;
        }
        let source = execute_first(&paths, &args, &environment);
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::NotFound,
            Some(libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR | libc::ETXTBSY) => {
                ErrorKind::NotExecutable
            }
            _ => ErrorKind::Other,
        };
        Err(Error::Execute { program: name, kind, source })
    }
}

/// Enters the working directory and makes sure it is in the container: one
/// reached through a leaked descriptor is not (CVE-2024-21626).
fn enter(cwd: &Path) -> Result<(), Error> {
    let failed = || format!("the working directory {} could not be entered", shown(cwd));
    rustix::process::chdir(cwd).during_with(failed)?;
    let here = rustix::process::getcwd(Vec::new()).during_with(failed)?;
    if here.as_bytes().first() != Some(&b'/') {
        return Err(Error::invalid(format!("{} is outside the container", rootfs::shown(cwd))));
    }
    Ok(())
}

fn environment(given: &[String], owner: &Owner) -> Vec<String> {
    let mut environment = given.to_vec();
    let has = |name: &str| given.iter().any(|variable| variable.starts_with(name));
    if !has("PATH=") {
        environment.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !has("HOME=") {
        environment.push(format!("HOME={}", owner.home));
    }
    environment
}

/// Where the program may be: as it is when it has a slash, else in PATH.
fn candidates(name: &str, environment: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    // An empty part means the working directory to a shell; not here.
    let parts = path.unwrap_or(DEFAULT_PATH).split(':').filter(|part| !part.is_empty());
    parts.map(|dir| format!("{dir}/{name}")).collect()
}

/// Tries each in turn as execvp(3) does; the error that says most.
fn execute_first(paths: &[CString], args: &[CString], environment: &[CString]) -> io::Error {
    let mut error = Errno::NOENT;
    for path in paths {
        match execve(path, args, environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => error = Errno::ACCESS,
            other => return other.into(),
        }
    }
    error.into()
}

fn execve(path: &CStr, args: &[CString], environment: &[CString]) -> Errno {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, environment) = (pointers(args), pointers(environment));
    // SAFETY: three terminated strings or null-terminated arrays of such,
    // alive during the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), environment.as_ptr()) };
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { identity: Identity::default(), home: "/root".into() }
    }

    #[test]
    fn home_and_path_are_added_when_missing_only() {
        let given = ["PATH=/x".to_owned()];
        assert_eq!(environment(&given, &owner()), ["PATH=/x", "HOME=/root"]);
        let given = ["HOME=/h".to_owned()];
        assert_eq!(environment(&given, &owner())[1], format!("PATH={DEFAULT_PATH}"));
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_not() {
        let environment = ["PATH=/a::/b".to_owned()];
        assert_eq!(candidates("ls", &environment), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("./ls", &environment), ["./ls"]);
    }
}
