//! Volumes the kubelet exchanges as a whole (configMaps, secrets, tokens): the
//! guest mirrors them, and is told here when to look again.
//!
//! A file server cannot tell a guest's kernel of changes; whoever watches such a
//! volume with inotify would never hear of one. So this side watches the host's.
//! Where that cannot be had, the volume is shared like any other: its contents
//! are live, and only the events are missing.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_bundle::Bind;
use bulkhead_sys::directory;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Pod;
use crate::failure::Outcome;
use crate::{machine, rootfs};

/// Volumes of a pod mirrored at most.
const VOLUME_LIMIT: usize = 64;

/// Names in such a volume at most; one with more is shared.
const NAME_LIMIT: usize = 4096;

/// Bytes in its files at most. An object of an API server has about 1 MiB.
const BYTE_LIMIT: u64 = 16 << 20;

/// Directories inside each other at most.
const DEPTH_LIMIT: usize = 16;

/// The link that says which generation holds; kubelet's
/// pkg/volume/util/atomic_writer.go.
const DATA: &CStr = c"..data";

/// Volumes that are laid out so, by their directories.
const PLUGINS: [&str; 4] = [
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~projected",
    "kubernetes.io~downward-api",
];

/// A pod's mirrored volumes, by their sources on the host.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    volumes: HashMap<PathBuf, Volume>,
}

/// One of them.
#[derive(Debug)]
struct Volume {
    /// In the share.
    name: String,
    /// Open, which keeps the kernel telling of it.
    directory: OwnedFd,
    /// What it was like when the guest last looked.
    seen: Option<Look>,
}

/// What tells one state of a volume from another, of what the guest is to
/// mirror: the generation that holds, and the times of all that is named.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    generation: CString,
    changed: Vec<(CString, Stamp)>,
}

/// Seconds and nanoseconds of the last change, owner and mode.
type Stamp = (i64, u64, u32, u32, u32);

fn stamp(stat: &Stat) -> Stamp {
    let time = (stat.st_ctime, stat.st_ctime_nsec);
    (time.0, time.1, stat.st_uid, stat.st_gid, stat.st_mode)
}

fn look(dir: &OwnedFd) -> rustix::io::Result<Option<Look>> {
    let Some(generation) = generation(dir)? else {
        return Ok(None);
    };
    let of = |name: &CStr| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let own = rustix::fs::fstat(dir)?;
    // Its times change with each name that only the kubelet uses.
    let own = (0, 0, own.st_uid, own.st_gid, own.st_mode);
    let mut changed = vec![
        (CString::default(), own),
        (generation.clone(), stamp(&of(&generation)?)),
    ];
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if changed.len() > NAME_LIMIT {
            return Ok(None);
        }
        if !name.to_bytes().starts_with(b"..") && name != c"." {
            changed.push((name.to_owned(), stamp(&of(name)?)));
        }
    }
    changed.sort();
    Ok(Some(Look {
        generation,
        changed,
    }))
}

impl Mirrors {
    /// Names in the share of the volumes that are not what the guest has seen.
    fn changed(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        for volume in self.volumes.values_mut() {
            // In the middle of an exchange: the next step is told as well.
            let Ok(Some(now)) = look(&volume.directory) else {
                continue;
            };
            if volume.seen.as_ref() != Some(&now) {
                volume.seen = Some(now);
                names.push(volume.name.clone());
            }
        }
        names
    }

    /// The guest did not take a volume as it is.
    fn forget(&mut self, name: &str) {
        let mut all = self.volumes.values_mut();
        if let Some(volume) = all.find(|own| own.name == name) {
            volume.seen = None;
        }
    }
}

/// Is it a volume of the kubelet's that is exchanged as a whole?
fn is_exchanged(bind: &Bind, directory: &OwnedFd) -> bool {
    let mut names = bind.source.iter().rev().skip(1);
    let plugin = names.next().and_then(OsStr::to_str).unwrap_or_default();
    let placed = PLUGINS.contains(&plugin) && names.next() == Some(OsStr::new("volumes"));
    bind.read_only && placed && is_laid_out(directory).unwrap_or(false)
}

/// The directory `..data` points to, which has to be one beside it.
fn generation(dir: &OwnedFd) -> rustix::io::Result<Option<CString>> {
    let target = match rustix::fs::readlinkat(dir, DATA, Vec::new()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = target.to_bytes();
    let plain = bytes.starts_with(b"..") && bytes.len() > 2 && !bytes.contains(&b'/');
    Ok(plain.then_some(target))
}

/// Nothing but generations, `..data`, and links; and not too much.
fn is_laid_out(dir: &OwnedFd) -> rustix::io::Result<bool> {
    if generation(dir)?.is_none() {
        return Ok(false);
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(b"..") || name == c"." {
            continue;
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(false);
        }
    }
    let mut room = (NAME_LIMIT, BYTE_LIMIT);
    fits(dir, DEPTH_LIMIT, &mut room)
}

/// Is there room for all names and bytes below a directory?
fn fits(dir: &OwnedFd, depth: usize, room: &mut (usize, u64)) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        let (Some(names), Some(bytes)) = (room.0.checked_sub(1), room.1.checked_sub(bytes)) else {
            return Ok(false);
        };
        *room = (names, bytes);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            if depth == 0 || !fits(&below, depth - 1, room)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn readable(opened: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(opened, ".", flags, Mode::empty()).ok()
}

impl Pod {
    /// The name in the share of a volume the guest is to mirror; `None`: it is
    /// shared like any other. It stays in the share as long as the pod.
    pub(super) fn mirror(
        self: &Arc<Self>,
        bind: &Bind,
        opened: &OwnedFd,
    ) -> Outcome<Option<String>> {
        if let Some(volume) = self.lock().mirrors.volumes.get(&bind.source) {
            return Ok(Some(volume.name.clone()));
        }
        let Some(directory) = readable(opened).filter(|own| is_exchanged(bind, own)) else {
            return Ok(None);
        };
        let count = self.lock().mirrors.volumes.len();
        // Watched first: what changes from now on is not missed.
        let watched = match count {
            0 => self.watch_volumes(),
            1..VOLUME_LIMIT => Ok(()),
            _ => Err(std::io::Error::other("the pod has too many such volumes")),
        };
        if let Err(error) = watched.and_then(|()| directory::notify(&directory)) {
            let path = bind.source.display();
            tracing::warn!(%path, %error, "programs in the guest are not told of changes");
            return Ok(None);
        }
        let name = self.share(&rootfs::bind(opened, bind)?)?;
        let volume = Volume {
            name: name.clone(),
            directory,
            seen: None,
        };
        let mut state = self.lock();
        state.mirrors.volumes.insert(bind.source.clone(), volume);
        Ok(Some(name))
    }

    fn watch_volumes(self: &Arc<Self>) -> std::io::Result<()> {
        let signal = signal(SignalKind::io())?;
        tokio::spawn(tell(Arc::clone(self), signal));
        Ok(())
    }

    async fn follow(&self, name: &str) {
        let Ok(sandbox) = self.running() else {
            // Not there yet: the guest looks when it makes the mirror.
            return;
        };
        if let Err(error) = sandbox.follow_volume(machine::SHARE, name).await {
            tracing::warn!(name, %error, "a volume did not follow the host's");
            self.lock().mirrors.forget(name);
        }
    }
}

/// Tells the guest of changes until its machine is gone.
async fn tell(pod: Arc<Pod>, mut signal: Signal) {
    let mut over = pod.over.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return,
            told = signal.recv() => if told.is_none() {
                return;
            },
        }
        let names = pod.lock().mirrors.changed();
        for name in names {
            pod.follow(&name).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn volume(plugin: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pods/u1/volumes").join(plugin).join("map");
        std::fs::create_dir_all(path.join("..1")).unwrap();
        symlink("..1", path.join("..data")).unwrap();
        symlink("..data/key", path.join("key")).unwrap();
        (dir, path)
    }

    fn exchanged(path: &Path, read_only: bool) -> bool {
        let bind = Bind {
            mount: 0,
            source: path.to_owned(),
            read_only,
            later: false,
        };
        let opened = rootfs::source(&bind).unwrap();
        is_exchanged(&bind, &readable(&opened).unwrap())
    }

    #[test]
    fn only_what_the_kubelet_exchanges_is_mirrored() {
        for plugin in PLUGINS {
            let (_dir, path) = volume(plugin);
            assert!(exchanged(&path, true));
            assert!(!exchanged(&path, false), "somebody may write there");
        }
        let (_dir, path) = volume("kubernetes.io~empty-dir");
        assert!(!exchanged(&path, true));
        let (_dir, path) = volume(PLUGINS[0]);
        let large = std::fs::File::create(path.join("..1/key")).unwrap();
        large.set_len(BYTE_LIMIT / 2).unwrap();
        assert!(exchanged(&path, true));
        large.set_len(BYTE_LIMIT + 1).unwrap();
        assert!(!exchanged(&path, true), "too large for the guest");
        let (_dir, path) = volume(PLUGINS[0]);
        std::fs::write(path.join("file"), "no link").unwrap();
        assert!(!exchanged(&path, true));
        for target in ["/etc", "../x", "..", "plain"] {
            let (_dir, path) = volume(PLUGINS[0]);
            std::fs::remove_file(path.join("..data")).unwrap();
            symlink(target, path.join("..data")).unwrap();
            assert!(!exchanged(&path, true), "{target}");
        }
    }

    #[tokio::test]
    async fn an_exchange_is_noticed_and_the_writing_before_it_is_not() {
        let (_dir, path) = volume(PLUGINS[0]);
        let mut told = signal(SignalKind::io()).unwrap();
        let opened = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let directory = readable(&opened).unwrap();
        directory::notify(&directory).unwrap();
        let own = Volume {
            name: "n1".to_owned(),
            directory,
            seen: None,
        };
        let mut mirrors = Mirrors {
            volumes: [(path.clone(), own)].into(),
        };
        assert_eq!(mirrors.changed(), ["n1"]);
        assert!(mirrors.changed().is_empty());
        std::fs::create_dir(path.join("..2")).unwrap();
        told.recv().await.unwrap();
        assert!(mirrors.changed().is_empty(), "it does not hold yet");
        symlink("..2", path.join("..data_tmp")).unwrap();
        std::fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        told.recv().await.unwrap();
        assert_eq!(mirrors.changed(), ["n1"]);
        // Owners come last with an older kubelet.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        std::fs::set_permissions(path.join("..2"), mode).unwrap();
        told.recv().await.unwrap();
        assert_eq!(mirrors.changed(), ["n1"]);
        mirrors.forget("n1");
        assert_eq!(mirrors.changed(), ["n1"]);
    }
}
