//! Finds the command and executes it.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use super::error::{Error, ErrorKind, Result, Tried};
use super::syscalls;

/// Arguments and environment together at most, entries.
const ENTRY_LIMIT: usize = 100_000;

/// Where a command is looked for when the spec says nothing: what images
/// commonly say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enters the working directory, making it where it is missing, and checks
/// that it is inside (CVE-2024-21626).
pub(super) fn enter_cwd(cwd: &Path) -> Result<()> {
    let what = || format!("enter the working directory `{}`", cwd.display());
    match rustix::process::chdir(cwd) {
        Err(rustix::io::Errno::NOENT) => {
            std::fs::create_dir_all(cwd).tried(what)?;
            rustix::process::chdir(cwd).tried(what)?;
        }
        other => other.tried(what)?,
    }
    let actual = rustix::process::getcwd(Vec::new()).tried(what)?;
    if actual.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "the working directory `{}` is outside of the container",
            cwd.display()
        )))
    }
}

/// Refuses a command that is not there while its container is being made: whoever
/// starts it later would have to guess why that fails. What only its user may not
/// execute is found then.
pub(super) fn check(process: &Process) -> Result<()> {
    let name = name(process)?;
    let found = find(name, process.env().as_deref().unwrap_or_default())?;
    let path = process.cwd().join(found);
    match std::fs::metadata(&path) {
        Ok(stat) if stat.is_dir() => {
            let error = std::io::Error::from_raw_os_error(libc::EACCES);
            Err(failure(name, &error))
        }
        Ok(_) => rustix::fs::access(&path, rustix::fs::Access::EXEC_OK)
            .map_err(|error| failure(name, &error.into())),
        Err(error) => Err(failure(name, &error)),
    }
}

/// Executes the command; comes back only with an error.
pub(super) fn execute(process: &Process, home: &str) -> Error {
    match prepare(process, home) {
        Ok((path, args, env)) => {
            let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
            let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
            let name = args
                .first()
                .map(|name| name.to_string_lossy())
                .unwrap_or_default();
            failure(&name, &syscalls::execve(&path, &args, &env))
        }
        Err(error) => error,
    }
}

fn prepare(process: &Process, home: &str) -> Result<(CString, Vec<CString>, Vec<CString>)> {
    let name = name(process)?;
    let args = process.args().clone().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    if args.len() + env.len() > ENTRY_LIMIT {
        return Err(Error::invalid(
            "the command has too many arguments or variables",
        ));
    }
    if !env.iter().any(|line| line.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    let path = find(name, &env)?;
    let list = |words: Vec<String>| words.into_iter().map(text).collect::<Result<Vec<_>>>();
    Ok((
        text(path.to_string_lossy().into_owned())?,
        list(args)?,
        list(env)?,
    ))
}

fn name(process: &Process) -> Result<&str> {
    let first = process.args().as_ref().and_then(|args| args.first());
    let first = first.ok_or_else(|| Error::invalid("the command is empty"))?;
    Ok(first)
}

fn text(word: String) -> Result<CString> {
    CString::new(word).map_err(|_| Error::invalid("a word of the command holds a zero byte"))
}

/// Looks a bare name up in the PATH of the container's environment.
fn find(name: &str, env: &[String]) -> Result<PathBuf> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the command is empty"));
    }
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env
        .iter()
        .find_map(|line| line.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let candidate = Path::new(dir).join(name);
        if !candidate.is_file() {
            continue;
        }
        match rustix::fs::access(&candidate, rustix::fs::Access::EXEC_OK) {
            Ok(()) => return Ok(candidate),
            Err(_) => denied = Some(candidate),
        }
    }
    match denied {
        Some(path) => Err(Error::new(
            ErrorKind::NotExecutable,
            format!("`{}` is not executable", path.display()),
        )),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!("executable file not found in the container's PATH: `{name}`"),
        )),
    }
}

fn failure(name: &str, error: &std::io::Error) -> Error {
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::NotFound,
        Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::EPERM | libc::ELIBBAD) => {
            ErrorKind::NotExecutable
        }
        _ => ErrorKind::Other,
    };
    let hint = match error.raw_os_error() {
        Some(libc::ENOEXEC) => " (made for another processor, or no program at all)",
        _ => "",
    };
    Error::new(
        kind,
        format!(
            "the command `{name}` cannot be executed: {}{hint}",
            words(error)
        ),
    )
}

/// The kernel's reason as docker looks for it in what a runtime says.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(env: &[&str]) -> (String, Vec<String>) {
        let process = serde_json::json!({
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": env,
        });
        let process = serde_json::from_value(process).unwrap();
        let (path, _, env) = prepare(&process, "/root").unwrap();
        let text = |word: CString| word.into_string().unwrap();
        (text(path), env.into_iter().map(text).collect())
    }

    #[test]
    fn a_failure_has_the_words_managers_look_for() {
        let missing = failure("x", &std::io::Error::from_raw_os_error(libc::ENOENT));
        assert!(
            missing.to_string().ends_with("no such file or directory"),
            "{missing}"
        );
        let denied = failure("x", &std::io::Error::from_raw_os_error(libc::EACCES));
        assert!(
            denied.to_string().ends_with("permission denied"),
            "{denied}"
        );
    }

    #[test]
    fn without_a_path_there_is_a_common_one() {
        let (path, env) = prepared(&[]);
        assert!(path.ends_with("/sh"), "{path}");
        assert!(
            env.iter()
                .any(|line| *line == format!("PATH={DEFAULT_PATH}")),
            "{env:?}"
        );
        let (path, env) = prepared(&["PATH=/nowhere:/bin", "HOME=/h"]);
        assert_eq!(path, "/bin/sh");
        assert_eq!(env, ["PATH=/nowhere:/bin", "HOME=/h"]);
    }
}
