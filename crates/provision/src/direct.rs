//! Volumes a storage driver does not mount: the guest is given the disk, and mounts it
//! itself.
//!
//! The driver says so before a pod uses the volume, by `bulkhead direct-volume add` or a
//! file where Kata's own command has it, so that drivers need not know which runtime it
//! is. Only root can write there.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Deserialize, Serialize};

use crate::{Error, block};

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
    write(&place(root, path)?, &info).map_err(failed(path, "written"))
}

fn write(dir: &Path, info: &MountInfo) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(info)?)?;
    file.persist(dir.join(FILE))?;
    Ok(())
}

/// Forgets the description of the volume at `path`. One that is not there is no error.
///
/// # Errors
/// [`Error::Description`].
pub fn remove(root: &Path, path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(place(root, path)?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed(path, "removed")),
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
    let text = match read(&dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed(path, "read"))?,
    };
    volume(path, &parse(path, &text)?).map(Some)
}

/// One byte more than may be, if there is more.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Description { path, what, source }
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
    let filesystem = FILESYSTEMS.into_iter().find(|known| *known == info.fstype);
    let filesystem = filesystem.ok_or_else(|| {
        let why = format!("the guest's kernel has no `{}`; use ext4", info.fstype);
        wrong(path, why)
    })?;
    let unknown = |other| wrong(path, format!("the option `{other}` is not supported"));
    let read_only = block::is_read_only(&info.options, &IDLE).map_err(unknown)?;
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
