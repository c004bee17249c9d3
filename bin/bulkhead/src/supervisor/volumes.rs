//! Host directories and files shared with the sandbox: what may be shared,
//! and the file server of each.

use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_hypervisor::ShareDevice;
use bulkhead_provision::Helper;
use bulkhead_provision::share::{self, Server};
use bulkhead_sandbox::Volume;
use bulkhead_share::{FileIdentity, Order, Tree};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::report;
use crate::state::ContainerDir;
use crate::state::record::VolumeRecord;

/// Volumes of a container at most: each is a process and a device.
const VOLUME_LIMIT: usize = 16;

/// Tag of a root filesystem that is a host directory.
pub(super) const ROOT_TAG: &str = "rootfs";

/// What the shares of a sandbox are made of.
#[derive(Default)]
pub(super) struct Shares {
    pub(super) devices: Vec<ShareDevice>,
    pub(super) volumes: Vec<Volume>,
    pub(super) helpers: Vec<Helper>,
}

impl Shares {
    /// Starts a server for each volume. Wait for them with [`Self::ready`].
    pub(super) fn start(volumes: &[VolumeRecord], dir: &ContainerDir) -> Result<Self, String> {
        if volumes.len() > VOLUME_LIMIT {
            return Err(format!(
                "{} volumes are more than a sandbox has room for ({VOLUME_LIMIT}); share a \
                 directory above them",
                volumes.len()
            ));
        }
        let mut shares = Self::default();
        for (index, volume) in volumes.iter().enumerate() {
            let tag = format!("volume{index}");
            let source = open(&volume.source)?;
            let file = source.file.is_some();
            let access = Access {
                read_only: volume.read_only,
                later: volume.options.iter().any(|word| receives_mounts(word)),
            };
            shares.serve(&volume.source, source, access, &tag, dir)?;
            shares.volumes.push(Volume {
                tag,
                target: volume.target.to_string_lossy().into_owned(),
                read_only: volume.read_only,
                file: if file { FileIdentity::SHARED_NAME } else { "" }.to_owned(),
                options: volume.options.clone(),
                ..Default::default()
            });
        }
        Ok(shares)
    }

    /// Starts the server of a root filesystem.
    pub(super) fn start_root(&mut self, path: &Path, dir: &ContainerDir) -> Result<(), String> {
        let source = open(path)?;
        if source.file.is_some() {
            return Err(format!(
                "the root filesystem `{}` is not a directory",
                path.display()
            ));
        }
        self.serve(path, source, Access::default(), ROOT_TAG, dir)
    }

    fn serve(
        &mut self,
        path: &Path,
        source: Source,
        access: Access,
        tag: &str,
        dir: &ContainerDir,
    ) -> Result<(), String> {
        let order = Order {
            read_only: access.read_only,
            later: access.later,
            tree: source.file.map_or(Tree::Directory, Tree::File),
        };
        let server = Server::start(dir.path(), tag, path, source.dir, &order)
            .map_err(|error| report::chain(&error))?;
        self.helpers.push(server.helper);
        self.devices.push(server.device);
        Ok(())
    }

    /// Waits until every server serves.
    pub(super) fn ready(&mut self) -> Result<(), String> {
        self.helpers
            .iter_mut()
            .try_for_each(share::ready)
            .map_err(|error| report::chain(&error))
    }
}

/// What a guest may do with what is shared. By default it writes it, and does not see
/// what the host mounts there later.
#[derive(Debug, Clone, Copy, Default)]
struct Access {
    read_only: bool,
    later: bool,
}

/// Does this option of a volume ask for what is mounted later? mount(8).
fn receives_mounts(option: &str) -> bool {
    ["slave", "rslave", "shared", "rshared"].contains(&option)
}

/// What is shared: a directory, or one file of it.
struct Source {
    dir: OwnedFd,
    file: Option<FileIdentity>,
}

/// Opens what a volume shares. The last component may be a symbolic link, but
/// not one that leads out of the directory it is in: whoever may write there
/// would choose what the host shares.
fn open(path: &Path) -> Result<Source, String> {
    let shown = path.display();
    let unreadable = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => {
            format!("the volume source `{shown}` does not exist; create it first")
        }
        error => format!("the volume source `{shown}` cannot be opened: {error}"),
    };
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Some(name) = path.file_name() else {
        // "/" and what ends in "..": no last component to mistrust.
        let dir = rustix::fs::open(path, dir_flags, Mode::empty()).map_err(unreadable)?;
        return Ok(Source { dir, file: None });
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = rustix::fs::open(parent, dir_flags, Mode::empty()).map_err(unreadable)?;
    let opened = beneath(&parent, Path::new(name)).map_err(|error| match error {
        rustix::io::Errno::XDEV => leads_out(path),
        error => unreadable(error),
    })?;
    let stat = rustix::fs::fstat(&opened).map_err(unreadable)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            readable(&opened).map_err(unreadable)?;
            Ok(Source {
                dir: opened,
                file: None,
            })
        }
        FileType::RegularFile => file(path, &stat).map_err(unreadable),
        other => Err(format!(
            "the volume source `{shown}` is a {}; only directories and regular files can be \
             shared with another kernel",
            kind(other)
        )),
    }
}

fn beneath(parent: &OwnedFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Refused here and not with every access of the guest.
fn readable(dir: &OwnedFd) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty()).map(drop)
}

/// A single file, by the directory that holds it and its name there.
fn file(path: &Path, stat: &rustix::fs::Stat) -> rustix::io::Result<Source> {
    // A link beneath its parent is followed to the file's own directory.
    let real = std::fs::canonicalize(path).map_err(|_| rustix::io::Errno::NOENT)?;
    let (Some(dir), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    // The server makes sure that it serves the file that was checked.
    Ok(Source {
        dir,
        file: Some(FileIdentity::new(name.to_owned(), stat)),
    })
}

fn leads_out(path: &Path) -> String {
    let target = std::fs::read_link(path).map_or_else(
        |_| String::new(),
        |target| format!(" (to `{}`)", target.display()),
    );
    format!(
        "the volume source `{}` is a symbolic link that leads out of its directory{target}; name \
         the real path",
        path.display()
    )
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "socket",
        FileType::Fifo => "named pipe",
        FileType::BlockDevice | FileType::CharacterDevice => "device",
        _ => "file of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refusal(path: &Path) -> String {
        open(path).err().unwrap()
    }

    #[test]
    fn directories_and_files_are_shared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        symlink("file", at("inside")).unwrap();
        symlink("/etc", at("outside")).unwrap();
        assert!(open(dir.path()).unwrap().file.is_none());
        assert!(open(&at("sub")).unwrap().file.is_none());
        assert!(open(Path::new("/")).unwrap().file.is_none());
        assert_eq!(open(&at("inside")).unwrap().file.unwrap().name, "file");
        assert!(refusal(&at("socket")).contains("is a socket"));
        assert!(refusal(Path::new("/dev/null")).contains("is a device"));
        assert!(refusal(&at("missing")).contains("create it first"));
        assert!(refusal(&at("outside")).contains("leads out of its directory (to `/etc`)"));
    }
}
