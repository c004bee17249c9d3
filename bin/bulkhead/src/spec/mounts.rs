//! Volumes, tmpfs and other mounts a user asks for.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::SpecError;
use super::values::ByteSize;

/// A host directory or file to share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    /// OCI mount option words beside ro and rw.
    pub(crate) options: Vec<String>,
}

const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "slave", "rslave", "shared", "rshared",
];
const FLAGS: [&str; 6] = ["nosuid", "suid", "nodev", "dev", "noexec", "exec"];

/// "SRC:DST[:ro,…]". A relative source begins with a dot, as Podman's: a bare
/// word would be a named volume.
pub(super) fn volume(text: &str) -> Result<Volume, SpecError> {
    let wrong = |problem: &str| SpecError::value("--volume", text, problem);
    let mut parts = text.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() => (source, target),
        _ => return Err(wrong("write SOURCE:TARGET or SOURCE:TARGET:ro")),
    };
    if !source.starts_with(['/', '.']) {
        return Err(wrong(
            "named volumes do not exist here; write a path, ./NAME if relative",
        ));
    }
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(wrong("more than SOURCE:TARGET:OPTIONS"));
    }
    let mut volume = Volume {
        source: PathBuf::from(source),
        target: target_path("--volume", target)?,
        read_only: false,
        options: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            // There is one kernel per container: nothing to label or relabel.
            "rw" | "z" | "Z" | "rbind" | "bind" => {}
            option if PROPAGATION.contains(&option) || FLAGS.contains(&option) => {
                volume.options.push(option.to_owned());
            }
            option => return Err(wrong(&format!("`{option}` is no option of a volume"))),
        }
    }
    Ok(volume)
}

/// "DST[:OPTIONS]".
pub(super) fn tmpfs(text: &str) -> Result<Mount, SpecError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path("--tmpfs", target)?;
    let mut list: Vec<String> = ["rprivate", "nosuid", "nodev", "tmpcopyup"]
        .map(str::to_owned)
        .to_vec();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        tmpfs_option(text, option, &mut list)?;
    }
    mount("tmpfs", "tmpfs", &target, list)
}

fn tmpfs_option(text: &str, option: &str, list: &mut Vec<String>) -> Result<(), SpecError> {
    let wrong = || SpecError::value("--tmpfs", text, format!("`{option}` is no tmpfs option"));
    match option.split_once('=') {
        Some(("size", size)) => {
            let size: ByteSize = size.parse().map_err(|_| wrong())?;
            list.push(format!("size={}", size.bytes()));
        }
        Some(("mode", mode)) if u32::from_str_radix(mode, 8).is_ok_and(|m| m <= 0o7777) => {
            list.push(option.to_owned());
        }
        Some(("uid" | "gid" | "nr_inodes", number)) if number.parse::<u64>().is_ok() => {
            list.push(option.to_owned());
        }
        None if matches!(option, "ro" | "rw" | "noatime") || FLAGS.contains(&option) => {
            list.push(option.to_owned());
        }
        None if option == "notmpcopyup" => list.retain(|word| word != "tmpcopyup"),
        _ => return Err(wrong()),
    }
    Ok(())
}

/// What `--mount` can be.
pub(super) enum Asked {
    Volume(Volume),
    Mount(Mount),
}

/// "type=bind,src=…,dst=…[,ro]" or "type=tmpfs,dst=…[,tmpfs-size=…]".
pub(super) fn asked(text: &str) -> Result<Asked, SpecError> {
    let wrong = |problem: String| SpecError::value("--mount", text, problem);
    let (mut kind, mut source, mut target, mut read_only) = ("bind", None, None, false);
    let mut tmpfs_options: Vec<String> = Vec::new();
    for part in text.split(',') {
        match part.split_once('=').unwrap_or((part, "")) {
            ("type", value) => kind = value,
            ("src" | "source", value) => source = Some(value),
            ("dst" | "destination" | "target", value) => target = Some(value),
            ("ro" | "readonly", "" | "true") => read_only = true,
            ("ro" | "readonly", "false") | ("rw", "" | "true") => {}
            ("tmpfs-size", value) => tmpfs_options.push(format!("size={value}")),
            ("tmpfs-mode", value) => tmpfs_options.push(format!("mode={value}")),
            (key, _) => return Err(wrong(format!("`{key}` is not understood"))),
        }
    }
    let target = target.ok_or_else(|| wrong("dst= is missing".to_owned()))?;
    match kind {
        "bind" => Ok(Asked::Volume(Volume {
            source: source
                .ok_or_else(|| wrong("src= is missing".to_owned()))?
                .into(),
            target: target_path("--mount", target)?,
            read_only,
            options: Vec::new(),
        })),
        "tmpfs" => {
            if read_only {
                tmpfs_options.push("ro".to_owned());
            }
            tmpfs(&format!("{target}:{}", tmpfs_options.join(","))).map(Asked::Mount)
        }
        other => Err(wrong(format!(
            "type `{other}` is not one of bind and tmpfs"
        ))),
    }
}

fn target_path(option: &'static str, target: &str) -> Result<PathBuf, SpecError> {
    let path = Path::new(target);
    let clean = path
        .components()
        .all(|part| !matches!(part, Component::ParentDir));
    if !path.is_absolute() || !clean || path == Path::new("/") {
        return Err(SpecError::value(
            option,
            target,
            "the place in the container has to be an absolute path below /",
        ));
    }
    Ok(path.to_owned())
}

/// An OCI mount.
pub(super) fn mount(
    kind: &str,
    source: &str,
    target: &Path,
    options: Vec<String>,
) -> Result<Mount, SpecError> {
    Ok(MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options)
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn volumes_have_source_target_and_options() {
        let v = volume("/a:/b:ro,rslave").unwrap();
        assert_eq!(
            (v.source.as_path(), v.target.as_path()),
            (Path::new("/a"), Path::new("/b"))
        );
        assert!(v.read_only && v.options == ["rslave"]);
        for text in [
            "/a",
            "a:/b",
            "/a:b",
            "/a:/b/../c",
            "/a:/",
            "/a:/b:fly",
            "/a:/b:ro:x",
        ] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tmpfs_takes_only_its_own_options() {
        let mount = tmpfs("/run:size=64m,mode=0755").unwrap();
        assert!(
            mount
                .options()
                .as_ref()
                .unwrap()
                .contains(&"size=67108864".to_owned())
        );
        assert!(tmpfs("/run:lowerdir=/").is_err());
        assert!(tmpfs("run").is_err());
    }

    #[test]
    fn mounts_are_binds_or_tmpfs() {
        assert!(matches!(
            asked("type=bind,src=/a,dst=/b,ro").unwrap(),
            Asked::Volume(_)
        ));
        assert!(matches!(
            asked("type=tmpfs,dst=/b,tmpfs-size=1m").unwrap(),
            Asked::Mount(_)
        ));
        for text in [
            "",
            "type=bind,dst=/b",
            "type=volume,src=x,dst=/b",
            "type=tmpfs",
        ] {
            assert!(asked(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_typed_panics(text in "[a-z/:,=.]{0,40}") {
            let _ = volume(&text);
            let _ = tmpfs(&text);
            let _ = asked(&text);
        }
    }
}
