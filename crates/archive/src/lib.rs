//! Trees of files as a stream, for copying in and out of a container.
//!
//! The stream is a tar whose every entry begins with one agreed name. Neither
//! side trusts the other: the host because the guest is hostile, the guest
//! because it writes into a container's root, where it is enclosed.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The name every entry begins with.
const TOP: &str = "item";

/// Entries of a stream at most.
const ENTRY_LIMIT: usize = 10_000_000;

/// Writes the file, link or tree at `path`. Links are written as links.
///
/// # Errors
///
/// When something cannot be read; a socket cannot be archived.
pub fn pack(path: &Path, out: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    builder.follow_symlinks(false);
    let meta = path.symlink_metadata().map_err(named(path))?;
    if meta.is_dir() {
        builder.append_dir_all(TOP, path)?;
    } else {
        builder.append_path_with_name(path, TOP)?;
    }
    builder.into_inner()?.flush()
}

/// Writes what a stream holds to `target`: into it as `name` if it is a
/// directory, as it otherwise, as cp(1) does. Files belong to the caller; setuid
/// bits are kept only with `keep_modes`.
///
/// Nothing is written beside the target, whatever the stream says and whatever
/// links it makes.
///
/// # Errors
///
/// When the stream is malformed or reaches outside, or a file cannot be written.
pub fn unpack(input: impl Read, target: &Path, name: &Path, keep_modes: bool) -> io::Result<()> {
    let target = place(target, name)?;
    let mut archive = tar::Archive::new(input);
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRY_LIMIT {
            return Err(refused("it has too many entries"));
        }
        let mut entry = entry?;
        entry.set_preserve_permissions(keep_modes);
        let at = below(&entry.path()?)?;
        if let Some(link) = entry.link_name()? {
            let hard = entry.header().entry_type() == tar::EntryType::Link;
            if hard {
                return Err(refused(&format!("`{}` is a hard link", link.display())));
            }
        }
        let at = match at {
            None => target.clone(),
            Some(rest) => {
                inside(&target, &rest)?;
                target.join(rest)
            }
        };
        if entry.header().entry_type().is_dir() && at.is_dir() && !is_link(&at) {
            continue;
        }
        entry.unpack(&at).map_err(named(&at))?;
    }
    Ok(())
}

/// Where the top of the stream goes.
fn place(target: &Path, name: &Path) -> io::Result<PathBuf> {
    if target.is_dir() {
        return match name.components().next_back() {
            Some(Component::Normal(name)) => Ok(target.join(name)),
            // "DIR/." and "/": the contents.
            _ => Ok(target.to_owned()),
        };
    }
    let parent = target.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    if parent.is_dir() {
        return Ok(target.to_owned());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("the directory `{}` does not exist", parent.display()),
    ))
}

/// The part of an entry's path below the agreed name.
fn below(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut parts = path.components();
    let wrong = || refused(&format!("`{}` leads out of what is copied", path.display()));
    if parts.next() != Some(Component::Normal(TOP.as_ref())) {
        return Err(wrong());
    }
    let rest = parts.as_path();
    let plain = rest
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    match (plain, rest == Path::new("")) {
        (_, true) => Ok(None),
        (true, false) => Ok(Some(rest.to_owned())),
        (false, false) => Err(wrong()),
    }
}

/// Refuses a place behind a link: an earlier entry made it, or whoever else
/// writes there.
fn inside(target: &Path, rest: &Path) -> io::Result<()> {
    let mut at = target.to_owned();
    for part in rest.components() {
        if is_link(&at) {
            return Err(refused(&format!("`{}` is a link", at.display())));
        }
        at.push(part);
    }
    Ok(())
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_symlink())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the copy is refused: {why}"),
    )
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("`{path}`: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn copy(from: &Path, to: &Path, name: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        pack(from, &mut bytes)?;
        unpack(&bytes[..], to, Path::new(name), true)
    }

    #[test]
    fn copies_go_where_cp_puts_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("tree/sub")).unwrap();
        std::fs::write(at("tree/sub/file"), "x").unwrap();
        symlink("sub/file", at("tree/link")).unwrap();
        std::fs::create_dir(at("there")).unwrap();
        copy(&at("tree"), &at("there"), "tree").unwrap();
        assert_eq!(std::fs::read(at("there/tree/link")).unwrap(), b"x");
        copy(&at("tree"), &at("new"), "tree").unwrap();
        assert_eq!(std::fs::read(at("new/sub/file")).unwrap(), b"x");
        copy(&at("tree"), &at("there"), ".").unwrap();
        assert!(at("there/sub/file").exists());
        copy(&at("tree/sub/file"), &at("there"), "file").unwrap();
        copy(&at("tree/sub/file"), &at("renamed"), "file").unwrap();
        assert_eq!(std::fs::read(at("renamed")).unwrap(), b"x");
        assert!(copy(&at("tree/sub/file"), &at("no/where"), "file").is_err());
    }

    fn hostile(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, path: &str, link: Option<&str>) {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(0o644);
        header.set_size(if link.is_some() { 0 } else { 4 });
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        let body: &[u8] = if link.is_some() { b"" } else { b"evil" };
        builder.append(&header, body).unwrap();
    }

    #[test]
    fn nothing_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let link = outside.display().to_string();
        let cases: [&[(&str, Option<&str>)]; 5] = [
            &[("../outside/evil", None)],
            &[("item/../../outside/evil", None)],
            &[("/outside/evil", None)],
            &[("item", Some(&link)), ("item/evil", None)],
            &[("item/a", Some(&link)), ("item/a/evil", None)],
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let bytes = hostile(|builder| {
                for (path, link) in case {
                    entry(builder, path, *link);
                }
            });
            let target = dir.path().join(format!("target{number}"));
            let _ = std::fs::create_dir(&target);
            let name = Path::new("copy");
            assert!(
                unpack(&bytes[..], &target, name, false).is_err(),
                "{case:?}"
            );
            let target = dir.path().join(format!("plain{number}"));
            assert!(
                unpack(&bytes[..], &target, name, false).is_err(),
                "{case:?}"
            );
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{case:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let dir = tempfile::tempdir().unwrap();
            let _ = unpack(&bytes[..], dir.path(), Path::new("x"), false);
        }
    }
}
