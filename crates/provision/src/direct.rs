//! Volumes a storage driver does not mount: the guest is given the disk, and mounts it
//! itself.
//!
//! The driver says so before a pod uses the volume, by `bulkhead direct-volume add` or a
//! file where Kata's own command has it, so that drivers need not know which runtime it
//! is. Only root can write there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where descriptions are: `ROOT/<path of the volume in base64>/mountInfo.json`.
pub const ROOT: &str = "/run/kata-containers/shared/direct-volumes";

const FILE: &str = "mountInfo.json";

/// Longest description, bytes.
const LIMIT: u64 = 64 << 10;

/// File systems the guest's kernel has and writes.
const FILESYSTEMS: [&str; 3] = ["ext2", "ext3", "ext4"];

/// The one kind of volume: a block device, or an image of one.
const KINDS: [&str; 3] = ["directvol", "block", ""];

/// Options that say nothing the guest does not do by itself.
const IDLE: [&str; 5] = ["rw", "discard", "noatime", "relatime", "defaults"];

/// What a driver says: the fields are those of Kata's `MountInfo`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MountInfo {
    #[serde(rename = "volume-type", default)]
    kind: String,
    #[serde(default)]
    device: PathBuf,
    #[serde(default)]
    fstype: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// A volume that is a disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectVolume {
    /// The block device, or an image of one.
    pub device: PathBuf,
    /// Its file system.
    pub filesystem: &'static str,
    /// Nobody writes to it.
    pub read_only: bool,
    /// Whose it is to be; none: as it is.
    pub group: Option<Group>,
}

/// A pod's fsGroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: u32,
    /// Files are given to it only if the directory at the top has another.
    pub on_mismatch: bool,
}

/// Describes the volume at `path`, by a text of JSON. A description there was is
/// replaced.
///
/// # Errors
/// [`Error::Volume`] for what no guest could mount, [`Error::Description`].
pub fn add(root: &Path, path: &Path, info: &str) -> Result<(), Error> {
    let info: MountInfo = parse(path, info.as_bytes())?;
    volume(path, &info)?;
    let failed = |what| {
        let path = path.to_owned();
        move |source: io::Error| Error::Description { path, what, source }
    };
    let dir = place(root, path)?;
    std::fs::create_dir_all(&dir).map_err(failed("written"))?;
    let text = serde_json::to_vec(&info).map_err(|error| failed("written")(error.into()))?;
    let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed("written"))?;
    io::Write::write_all(&mut file, &text).map_err(failed("written"))?;
    let put = file.persist(dir.join(FILE));
    put.map(drop)
        .map_err(|error| failed("written")(error.error))
}

/// Forgets the description of the volume at `path`. One that is not there is no error.
///
/// # Errors
/// [`Error::Description`].
pub fn remove(root: &Path, path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(place(root, path)?) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Description {
            path: path.to_owned(),
            what: "removed",
            source: error,
        }),
        _ => Ok(()),
    }
}

/// The volume at `path`, if a driver left it to the guest.
///
/// # Errors
/// [`Error::Volume`] for what no guest could mount, [`Error::Description`].
pub fn find(root: &Path, path: &Path) -> Result<Option<DirectVolume>, Error> {
    // A path too long for a name was not described either.
    let Ok(dir) = place(root, path) else {
        return Ok(None);
    };
    let file = match std::fs::File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unread(path, source)),
    };
    let mut text = Vec::new();
    let read = io::Read::read_to_end(&mut io::Read::take(file, LIMIT + 1), &mut text);
    read.map_err(|source| unread(path, source))?;
    volume(path, &parse(path, &text)?).map(Some)
}

fn unread(path: &Path, source: io::Error) -> Error {
    Error::Description {
        path: path.to_owned(),
        what: "read",
        source,
    }
}

fn wrong(path: &Path, why: impl Into<String>) -> Error {
    Error::Volume {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn place(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    if !path.is_absolute() {
        return Err(wrong(path, "its path is not absolute"));
    }
    let name = URL_SAFE.encode(path.as_os_str().as_encoded_bytes());
    match name.len() {
        ..=255 => Ok(root.join(name)),
        _ => Err(wrong(path, "its path has more than 189 bytes")),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<MountInfo, Error> {
    if text.len() as u64 > LIMIT {
        return Err(wrong(
            path,
            format!("its description has more than {LIMIT} bytes"),
        ));
    }
    let parsed = serde_json::from_slice(text);
    parsed.map_err(|error| wrong(path, format!("its description is no `mountInfo`: {error}")))
}

fn volume(path: &Path, info: &MountInfo) -> Result<DirectVolume, Error> {
    if !KINDS.contains(&info.kind.as_str()) {
        let why = format!(
            "it is of the type `{}`; block devices are to be had",
            info.kind
        );
        return Err(wrong(path, why));
    }
    if !info.device.is_absolute() {
        return Err(wrong(path, "its `device` is no absolute path"));
    }
    let own = |known: &&str| *known == info.fstype;
    let filesystem = FILESYSTEMS.into_iter().find(|known| own(known));
    let filesystem = filesystem.ok_or_else(|| {
        let why = format!("the guest's kernel has no `{}`; use ext4", info.fstype);
        wrong(path, why)
    })?;
    let mut read_only = false;
    for option in &info.options {
        match option.as_str() {
            "ro" => read_only = true,
            idle if IDLE.contains(&idle) => {}
            other => {
                return Err(wrong(
                    path,
                    format!("the option `{other}` is not supported"),
                ));
            }
        }
    }
    Ok(DirectVolume {
        device: info.device.clone(),
        filesystem,
        read_only,
        group: group(path, &info.metadata)?,
    })
}

fn group(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<Group>, Error> {
    let Some(text) = metadata.get("fsGroup") else {
        return Ok(None);
    };
    let gid = text.parse();
    let gid = gid.map_err(|_| wrong(path, format!("its fsGroup `{text}` is no number")))?;
    let on_mismatch = match metadata.get("fsGroupChangePolicy").map(String::as_str) {
        None | Some("" | "Always") => false,
        Some("OnRootMismatch") => true,
        Some(other) => {
            return Err(wrong(
                path,
                format!("its fsGroupChangePolicy `{other}` is none"),
            ));
        }
    };
    Ok(Some(Group { gid, on_mismatch }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOLUME: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount";

    fn described(info: &str) -> Result<Option<DirectVolume>, Error> {
        let root = tempfile::tempdir().unwrap();
        add(root.path(), Path::new(VOLUME), info)?;
        find(root.path(), Path::new(VOLUME))
    }

    #[test]
    fn what_a_driver_says_is_found_until_it_takes_it_back() {
        let root = tempfile::tempdir().unwrap();
        let path = Path::new(VOLUME);
        assert_eq!(find(root.path(), path).unwrap(), None);
        let info = r#"{"volume-type":"directvol","device":"/dev/sdf","fstype":"ext4",
            "metadata":{"fsGroup":"1000","fsGroupChangePolicy":"OnRootMismatch"},
            "options":["ro","noatime"],"unknown":1}"#;
        add(root.path(), path, info).unwrap();
        // Where other programs have it, too.
        let name =
            "L3Zhci9saWIva3ViZWxldC9wb2RzLzEvdm9sdW1lcy9rdWJlcm5ldGVzLmlvfmNzaS9wdmMvbW91bnQ=";
        assert!(root.path().join(name).join(FILE).exists());
        let group = Group {
            gid: 1000,
            on_mismatch: true,
        };
        let wanted = DirectVolume {
            device: "/dev/sdf".into(),
            filesystem: "ext4",
            read_only: true,
            group: Some(group),
        };
        assert_eq!(find(root.path(), path).unwrap(), Some(wanted));
        remove(root.path(), path).unwrap();
        remove(root.path(), path).unwrap();
        assert_eq!(find(root.path(), path).unwrap(), None);
    }

    #[test]
    fn what_no_guest_could_mount_is_refused_by_name() {
        for (info, word) in [
            ("", "mountInfo"),
            (r#"{"fstype":"ext4"}"#, "device"),
            (r#"{"device":"sdf","fstype":"ext4"}"#, "device"),
            (r#"{"device":"/dev/sdf","fstype":"xfs"}"#, "xfs"),
            (
                r#"{"volume-type":"spdkvol","device":"/a","fstype":"ext4"}"#,
                "spdkvol",
            ),
            (
                r#"{"device":"/a","fstype":"ext4","options":["errors=panic"]}"#,
                "errors=panic",
            ),
            (
                r#"{"device":"/a","fstype":"ext4","metadata":{"fsGroup":"-1"}}"#,
                "-1",
            ),
        ] {
            let text = described(info).unwrap_err().to_string();
            assert!(text.contains(word) && text.contains(VOLUME), "{text}");
        }
        assert!(
            find(Path::new("/nowhere"), Path::new("relative"))
                .unwrap()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn no_description_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Path::new(VOLUME), &text).and_then(|info| volume(Path::new(VOLUME), &info));
        }
    }
}
