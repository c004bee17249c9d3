//! Which of a container's mounts are the host's, and what they become in a guest.

use std::path::{Path, PathBuf};

use bulkhead_protocol::SHARED_MEMORY;
use oci_spec::runtime::{Mount, Spec};

use crate::Refusal;

/// Where control groups are, on the host and in a container.
const GROUPS: &str = "/sys/fs/cgroup";

/// Directories laid over each other at most: as many as overlayfs takes.
const LAYER_LIMIT: usize = 500;

/// A directory or file of the host a container is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Which mount of the spec, from 0.
    pub mount: usize,
    /// What on the host.
    pub source: PathBuf,
    /// The container may only read it.
    pub read_only: bool,
    /// Somebody wants it to have what the host mounts below it later.
    pub later: bool,
}

/// Directories of the host a container is given as one: Podman's `--mount type=image` and
/// `-v …:O`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Which mount of the spec, from 0.
    pub mount: usize,
    /// What is laid over each other.
    pub stack: Stack,
    /// The container may only read it.
    pub read_only: bool,
}

/// Directories of the host, as the options of an overlay name them.
/// Documentation/filesystems/overlayfs.rst.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// Topmost first.
    pub lower: Vec<PathBuf>,
    /// What is written, and what that needs beside it; none: nothing can be.
    pub upper: Option<(PathBuf, PathBuf)>,
}

impl Stack {
    /// Those of a mount's options.
    pub fn of(options: &[String]) -> Self {
        let value = |name: &str| {
            let mut words = options.iter();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let upper = value("upperdir").zip(value("workdir"));
        Self {
            lower: value("lowerdir").map(directories).unwrap_or_default(),
            upper: upper.map(|(upper, work)| (PathBuf::from(upper), PathBuf::from(work))),
        }
    }
}

/// What of the host a spec's mounts are.
#[derive(Debug, Default)]
pub(crate) struct HostMounts {
    pub(crate) binds: Vec<Bind>,
    pub(crate) overlays: Vec<Overlay>,
}

/// Finds the mounts of host files. /dev/shm is the guest's: shared memory
/// cannot be shared with another kernel.
pub(crate) fn adapt(spec: &mut Spec) -> Result<HostMounts, Refusal> {
    let mut found = HostMounts::default();
    let Some(mut mounts) = spec.mounts().clone() else {
        return Ok(found);
    };
    own_groups(&mut mounts);
    for (number, mount) in mounts.iter_mut().enumerate() {
        if mount.typ().as_deref() == Some("overlay") {
            found.overlays.push(overlay(number, mount)?);
            continue;
        }
        if !is_bind(mount) {
            continue;
        }
        if mount.destination() == Path::new("/dev/shm") {
            mount.set_source(Some(SHARED_MEMORY.into()));
            continue;
        }
        found.binds.push(bind(number, mount)?);
    }
    spec.set_mounts(Some(mounts));
    Ok(found)
}

/// Does a mount show something that is there already, by its type or by an option?
pub fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || options(mount)
            .iter()
            .any(|word| word == "bind" || word == "rbind")
}

fn options(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or(&[])
}

fn is_read_only(mount: &Mount) -> bool {
    options(mount).iter().any(|word| word == "ro")
}

fn bind(number: usize, mount: &Mount) -> Result<Bind, Refusal> {
    let source = mount.source().clone().filter(|path| path.is_absolute());
    let source = source.ok_or_else(|| wrong(mount, "has no absolute source"))?;
    Ok(Bind {
        mount: number,
        source,
        read_only: is_read_only(mount),
        later: receives_mounts(options(mount)),
    })
}

fn wrong(mount: &Mount, what: &str) -> Refusal {
    let destination = mount.destination().display();
    Refusal::new(format!("the mount on `{destination}` {what}"))
}

/// Do these options of a bind mount ask for what is mounted later? mount(8).
fn receives_mounts(options: &[String]) -> bool {
    let receives = |word: &String| match word.trim_start_matches('r') {
        "slave" | "shared" => Some(true),
        "private" | "unbindable" => Some(false),
        _ => None,
    };
    options.iter().filter_map(receives).next_back() == Some(true)
}

/// Reads the options of an overlay, and makes the mount one of what is shared.
fn overlay(number: usize, mount: &mut Mount) -> Result<Overlay, Refusal> {
    let stack = Stack::of(options(mount));
    let Stack { lower, upper } = &stack;
    let above = upper.iter().flat_map(|(upper, work)| [upper, work]);
    if lower.is_empty() || !lower.iter().chain(above).all(|path| path.is_absolute()) {
        return Err(wrong(
            mount,
            "names no absolute directories to be laid over each other",
        ));
    }
    if lower.len() > LAYER_LIMIT {
        return Err(wrong(mount, "is laid over more directories than can be"));
    }
    let read_only = is_read_only(mount) || upper.is_none();
    // What is left are flags; the file system's own options are the host's.
    let flags = options(mount).iter().filter(|word| {
        let name = word.split('=').next().unwrap_or_default();
        !["lowerdir", "upperdir", "workdir", "volatile", "userxattr"].contains(&name)
    });
    let flags = flags.cloned().chain(["rbind".to_owned()]).collect();
    mount.set_options(Some(flags));
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some("overlay".into()));
    Ok(Overlay {
        mount: number,
        stack,
        read_only,
    })
}

/// The directories of `lowerdir`, where a backslash takes its meaning from a colon.
/// Documentation/filesystems/overlayfs.rst.
fn directories(text: &str) -> Vec<PathBuf> {
    let mut all = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let last = all.last_mut();
        match (letter, last) {
            (':', _) => all.push(String::new()),
            ('\\', Some(last)) => last.extend(letters.next()),
            (other, Some(last)) => last.push(other),
            (_, None) => {}
        }
    }
    all.into_iter().map(PathBuf::from).collect()
}

/// Control groups of the host are another kernel's; the guest has its own, one
/// hierarchy of version 2. Who is given one of the host's to write on, as an init system
/// is on hosts of version 1, may write on those.
fn own_groups(mounts: &mut Vec<Mount>) {
    let is_hosts = |mount: &Mount| {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        is_bind(mount) && source.starts_with(GROUPS) && mount.destination().starts_with(GROUPS)
    };
    let writes = mounts.iter().any(|own| is_hosts(own) && !is_read_only(own));
    mounts.retain(|mount| !is_hosts(mount));
    if !writes {
        return;
    }
    let own = mounts
        .iter_mut()
        .filter(|own| own.destination() == Path::new(GROUPS));
    for mount in own {
        let mut flags = options(mount).to_vec();
        flags.retain(|word| word != "ro");
        mount.set_options(Some(flags));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spec(mounts: &serde_json::Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.0.0", "mounts": mounts})).unwrap()
    }

    #[test]
    fn what_is_laid_over_each_other_is_shared_as_one() {
        let mut own = spec(&json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/i", "type": "overlay", "source": "overlay", "options": [
                "lowerdir=/a\\:b:/c", "upperdir=/u", "workdir=/w", "nodev", "volatile",
            ]},
        ]));
        let found = adapt(&mut own).unwrap();
        let overlay = Overlay {
            mount: 1,
            stack: Stack {
                lower: vec!["/a:b".into(), "/c".into()],
                upper: Some(("/u".into(), "/w".into())),
            },
            read_only: false,
        };
        assert_eq!(found.overlays, [overlay]);
        let told = serde_json::to_string(&own).unwrap();
        assert!(!told.contains("/u") && told.contains("nodev"), "{told}");
        for wrong in [
            json!([]),
            json!(["lowerdir="]),
            json!(["lowerdir=a"]),
            json!(["upperdir=/a"]),
        ] {
            let mut own = spec(&json!([
                {"destination": "/i", "type": "overlay", "options": wrong},
            ]));
            assert!(adapt(&mut own).is_err(), "{wrong}");
        }
    }

    #[test]
    fn control_groups_of_the_host_are_the_guests_own() {
        let groups = |access: &str| {
            spec(&json!([
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", "ro"]},
                {"destination": "/sys/fs/cgroup/systemd", "type": "bind",
                 "source": "/sys/fs/cgroup/systemd", "options": ["bind", access]},
                {"destination": "/data", "type": "bind", "source": "/d", "options": ["bind"]},
            ]))
        };
        for (access, left) in [("rw", &["nosuid"][..]), ("ro", &["nosuid", "ro"])] {
            let mut own = groups(access);
            let found = adapt(&mut own).unwrap();
            assert_eq!((found.binds.len(), found.binds[0].mount), (1, 1));
            let mounts = own.mounts().clone().unwrap();
            assert_eq!(options(&mounts[0]), left);
        }
    }

    #[test]
    fn the_last_word_on_later_mounts_counts() {
        let says = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            receives_mounts(&words)
        };
        assert!(says(&["rbind", "rslave"]) && says(&["private", "shared"]));
        assert!(!says(&["rbind", "ro"]) && !says(&["rslave", "rprivate"]));
    }

    proptest! {
        #[test]
        fn no_directories_are_lost(names in proptest::collection::vec("/[a-z:]{0,8}", 1..5)) {
            let escaped: Vec<_> = names.iter().map(|name| name.replace(':', "\\:")).collect();
            let read = directories(&escaped.join(":"));
            let names: Vec<_> = names.into_iter().map(PathBuf::from).collect();
            prop_assert_eq!(read, names);
        }
    }
}
