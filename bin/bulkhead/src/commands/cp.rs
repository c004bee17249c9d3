//! `bulkhead cp`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::target;
use crate::cli::CpOptions;
use crate::client::Wanted;
use crate::report::{CommandError, Outcome};
use crate::spec;
use crate::state::Root;
use bulkhead_control::{Archive, ExecSpec, Request};

/// Copies files between a running container and this host.
pub(super) fn run(root: &Root, options: &CpOptions) -> Outcome {
    match (inside(&options.source), inside(&options.target)) {
        (Some((name, path)), None) => copy_out(root, name, path, Path::new(&options.target)),
        (None, Some((name, path))) => copy_in(root, Path::new(&options.source), name, path),
        (Some(_), Some(_)) => Err(CommandError::new(
            "from one container to another: copy to this host first",
        )),
        (None, None) => Err(CommandError::new(format!(
            "neither `{}` nor `{}` is in a container; write CONTAINER:/PATH for the one that is",
            options.source, options.target
        ))),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// "CONTAINER:PATH" or "POD/CONTAINER:/PATH"; a path of the host begins with a
/// slash or a dot, or has no colon.
fn inside(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    // A directory of the host may have a colon in a name, too.
    let own = name.starts_with(['/', '.']) || name.contains('/') && !path.starts_with('/');
    (!own && !name.is_empty() && !path.is_empty()).then_some((name, path))
}

fn copy_out(root: &Root, name: &str, path: &str, target: &Path) -> Result<(), CommandError> {
    let archive = Archive {
        extract: false,
        path: absolute(path),
        name: String::new(),
    };
    transfer(root, name, archive, |_, stdout| {
        let mut from = stdout.ok_or(std::io::ErrorKind::BrokenPipe)?;
        bulkhead_archive::unpack(&mut from, target, name_of(path), false)?;
        // Padding after the archive's end: the other side is still writing it.
        std::io::copy(&mut from, &mut std::io::sink()).map(|_| ())
    })
}

fn copy_in(root: &Root, source: &Path, name: &str, path: &str) -> Result<(), CommandError> {
    // Said before anything is written there.
    source.symlink_metadata().map_err(|error| {
        CommandError::new(format!("`{}` cannot be read: {error}", source.display()))
    })?;
    let own_name = name_of(source.as_os_str().to_str().ok_or_else(|| {
        CommandError::new(format!("the name of `{}` is not UTF-8", source.display()))
    })?);
    let archive = Archive {
        extract: true,
        path: absolute(path),
        name: own_name.to_string_lossy().into_owned(),
    };
    transfer(root, name, archive, |stdin, _| {
        let mut to = std::io::BufWriter::new(stdin.ok_or(std::io::ErrorKind::BrokenPipe)?);
        bulkhead_archive::pack(source, &mut to)?;
        to.flush()
    })
}

fn transfer(
    root: &Root,
    name: &str,
    archive: Archive,
    work: impl FnOnce(Option<std::fs::File>, Option<std::fs::File>) -> std::io::Result<()>,
) -> Result<(), CommandError> {
    let place = target::place(root, name)?;
    let mut process = spec::exec_process(
        &place.first,
        &spec::ExecRequest {
            command: vec!["cp".to_owned()],
            env: Vec::new(),
            workdir: Some("/".into()),
            terminal: false,
            // Files of any owner: this is the administrator's hand, in the guest.
            privileged: true,
        },
        &|_| None,
    )?;
    let mut user = process.user().clone();
    user.set_umask(Some(0));
    process.set_user(user);
    let wanted = Wanted {
        stdin: archive.extract,
        terminal: false,
        proxy_signals: false,
    };
    let spec = ExecSpec {
        container: place.container,
        process,
        user: "0:0".to_owned(),
        privileged: true,
        size: None,
        archive: Some(archive),
    };
    let client = place.client;
    let attachment = client.attach(wanted, |streams| Request::Exec(Box::new(spec), streams))?;
    client.answer(attachment.number())?;
    client.transfer(attachment, work)
}

/// A path in a container is one from its root.
fn absolute(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

/// What is copied is called so; "." says its contents, without its name.
fn name_of(path: &str) -> &Path {
    if path.ends_with("/.") || path == "." || path == "/" {
        return Path::new(".");
    }
    Path::new(Path::new(path).file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_paths_are_told_apart() {
        assert_eq!(inside("web:/etc"), Some(("web", "/etc")));
        assert_eq!(inside("web:etc"), Some(("web", "etc")));
        assert_eq!(inside("web/app:/etc"), Some(("web/app", "/etc")));
        assert_eq!(inside("prod/web/app:/x:y"), Some(("prod/web/app", "/x:y")));
        for text in ["/a:b", "./a:b", "a/b:c", "plain", ":/x", "web:"] {
            assert_eq!(inside(text), None, "{text}");
        }
    }

    #[test]
    fn a_dot_means_the_contents() {
        assert_eq!(name_of("/a/b/."), Path::new("."));
        assert_eq!(name_of("/a/b/"), Path::new("b"));
        assert_eq!(name_of("a"), Path::new("a"));
    }
}
