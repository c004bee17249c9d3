//! Mount options of the runtime specification, as mount_setattr(2) and
//! fsconfig(2) take them.

use super::error::Error;

pub(super) const RDONLY: u64 = 0x1;
pub(super) const NOSUID: u64 = 0x2;
pub(super) const NODEV: u64 = 0x4;
pub(super) const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const RELATIME: u64 = 0x00;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// Options a mount may have at most.
const OPTION_LIMIT: usize = 256;

/// Attributes to set and to clear, MOUNT_ATTR_*.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attributes {
    /// What of them only takes away: all that may be changed of mounts that belong to
    /// the users outside. mount_namespaces(7).
    pub(super) fn restrictions(self) -> Self {
        let bits = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC;
        Self {
            set: self.set & bits,
            clear: 0,
        }
    }

    fn add(&mut self, set: u64, clear: u64) {
        self.set = self.set & !clear | set;
        // An access time mode is set by clearing all of them first: the
        // kernel wants the whole mask.
        self.clear = self.clear & (!set | ATIME) | clear;
    }

    /// Was it to be read-only? It is not any more.
    pub(super) fn take_read_only(&mut self) -> bool {
        let asked = self.set & RDONLY != 0;
        self.set &= !RDONLY;
        asked
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// How a mount's propagation is to be, MS_* and whether recursively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagation {
    pub(super) kind: u64,
    pub(super) recursive: bool,
}

/// A mount's options, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount, and whether with what is mounted below.
    pub(super) bind: Option<bool>,
    /// For the mount itself.
    pub(super) attributes: Attributes,
    /// For it and all below.
    pub(super) recursive: Attributes,
    pub(super) propagation: Vec<Propagation>,
    /// Fill a tmpfs with what it covers.
    pub(super) copy_up: bool,
    /// Map ids, and whether below too.
    pub(super) idmap: Option<bool>,
    /// For the filesystem, `key` or `key=value`.
    pub(super) data: Vec<(String, Option<String>)>,
}

fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (RELATIME, ATIME),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

/// `shared`, `rslave` and so on.
pub(super) fn propagation(name: &str) -> Option<Propagation> {
    let kind = |name| {
        Some(match name {
            "private" => libc::MS_PRIVATE,
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        })
    };
    if let Some(kind) = kind(name) {
        return Some(Propagation {
            kind,
            recursive: false,
        });
    }
    let kind = kind(name.strip_prefix('r')?)?;
    Some(Propagation {
        kind,
        recursive: true,
    })
}

/// Sorts out a mount's options; what is not known is the filesystem's.
pub(super) fn parse(options: &[String]) -> Result<Options, Error> {
    if options.len() > OPTION_LIMIT {
        return Err(Error::invalid(format!(
            "a mount has more than {OPTION_LIMIT} options"
        )));
    }
    let mut parsed = Options::default();
    for option in options {
        match option.as_str() {
            "" | "defaults" | "async" | "loud" | "silent" | "nomand" | "mand" | "remount" => {}
            "bind" => parsed.bind = Some(parsed.bind.unwrap_or(false)),
            "rbind" => parsed.bind = Some(true),
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" => parsed.idmap = Some(false),
            "ridmap" => parsed.idmap = Some(true),
            name => parsed.other(name),
        }
    }
    Ok(parsed)
}

impl Options {
    fn other(&mut self, name: &str) {
        if let Some((set, clear)) = attribute(name) {
            self.attributes.add(set, clear);
        } else if let Some(propagation) = propagation(name) {
            self.propagation.push(propagation);
        } else if let Some((set, clear)) = name.strip_prefix('r').and_then(attribute) {
            self.recursive.add(set, clear);
        } else {
            let (key, value) = match name.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (name, None),
            };
            self.data.push((key.to_owned(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(options: &[&str]) -> Options {
        parse(&options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_typical_tmpfs() {
        let options = parsed(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(
            options.attributes,
            Attributes {
                set: NOSUID | STRICTATIME,
                clear: ATIME
            }
        );
        assert_eq!(options.data.len(), 2);
        assert_eq!(options.data[0], ("mode".into(), Some("755".into())));
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = parsed(&["ro", "rw", "noexec"]);
        assert_eq!(options.attributes.set, NOEXEC);
        assert_eq!(options.attributes.clear, RDONLY);
    }

    #[test]
    fn r_makes_an_attribute_recursive() {
        let options = parsed(&["rbind", "rro", "rprivate", "relatime"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.recursive.set, RDONLY);
        assert_eq!(
            options.propagation,
            [Propagation {
                kind: libc::MS_PRIVATE,
                recursive: true
            }]
        );
        assert!(options.data.is_empty());
    }

    proptest! {
        #[test]
        fn set_and_cleared_never_clash(options in proptest::collection::vec("r?(ro|rw|suid|nosuid|dev|nodev|atime|noatime|strictatime|exec|noexec)", 0..20)) {
            let options = parse(&options).unwrap();
            for attributes in [options.attributes, options.recursive] {
                prop_assert_eq!(attributes.set & attributes.clear & !ATIME, 0);
            }
        }
    }
}
