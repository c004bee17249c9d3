//! Where built guests are kept.
//!
//! ```text
//!   CACHE/kernels/<kind>-<key>/   kernel, modules/, source      what packages gave
//!         guests/<kind>-<key>/    kernel, initramfs, manifest.json
//!         tmp/<pid>-<n>/          being built; dead when its lock is free
//!         lock                    held while something is built
//! ```

use std::fs::{DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::manifest::FORMAT;
use crate::{Error, KernelKind, Manifest, Phase, Progress, Result, Sha256};

/// What root builds for everybody.
const SYSTEM: &str = "/var/cache/bulkhead/guest";

/// The environment variable that names another.
const PLACE: &str = "BULKHEAD_GUEST_CACHE";

/// Largest manifest read, bytes.
const MANIFEST_MAX: u64 = 64 << 10;

/// Which guest to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// The tuned one if there is one, else the distribution's.
    #[default]
    Auto,
    /// This kind or none.
    Only(KernelKind),
}

/// A directory of built guests.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens or makes the cache at `root`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(root: &Path) -> Result<Self> {
        for name in ["kernels", "guests", "tmp"] {
            let dir = root.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&dir)
                .map_err(Error::file("make", &dir))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Where the cache is when nobody says: `BULKHEAD_GUEST_CACHE`, else `/var/cache/bulkhead/guest`
    /// for root, else below `XDG_CACHE_HOME` or `HOME/.cache`.
    ///
    /// # Errors
    /// [`Error::NoCachePlace`].
    pub fn default_root() -> Result<PathBuf> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        if let Some(path) = variable(PLACE) {
            return Ok(path);
        }
        if rustix::process::geteuid().is_root() {
            return Ok(SYSTEM.into());
        }
        let home = || variable("HOME").map(|home| home.join(".cache"));
        let cache = variable("XDG_CACHE_HOME")
            .or_else(home)
            .ok_or(Error::NoCachePlace)?;
        Ok(cache.join("bulkhead/guest"))
    }

    /// Picks a guest to boot where nobody says which cache: from the caller's own
    /// ([`Cache::default_root`]), and when that has none from the one root builds in.
    ///
    /// # Errors
    /// [`Error::NoGuest`], [`Error::NoCachePlace`].
    pub fn find_default(preference: Preference) -> Result<Guest> {
        let system = std::env::var_os(PLACE).is_none().then_some(SYSTEM);
        Self::find_in(Self::default_root(), system.map(Path::new), preference)
    }

    fn find_in(
        root: Result<PathBuf>,
        system: Option<&Path>,
        preference: Preference,
    ) -> Result<Guest> {
        let own = root.and_then(|root| Self::open(&root)?.find(preference));
        let Some(system) = system.filter(|_| own.is_err()) else {
            return own;
        };
        let root = system.to_owned();
        Self { root }.find(preference).or(own)
    }

    /// A directory of the cache.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits for other builds and holds the cache until dropped.
    pub(crate) fn lock(&self, progress: &mut dyn Progress) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress.update(Phase::Wait, 0, 0);
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(Error::file("lock", &path))?;
        }
        Ok(file)
    }

    /// A fresh directory to build in. The caller holds the lock, so everything that is there is
    /// what a killed build left.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        let tmp = self.root.join("tmp");
        let _ = std::fs::remove_dir_all(&tmp);
        let dir = tmp.join("build");
        std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        Ok(dir)
    }

    /// Every guest with a manifest that can be read, newest first.
    ///
    /// # Errors
    /// [`Error::File`] when the cache cannot be listed.
    pub fn list(&self) -> Result<Vec<Guest>> {
        let dir = self.root.join("guests");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir)
            .map_err(Error::file("list", &dir))?
            .flatten()
        {
            let built = entry.metadata().and_then(|meta| meta.modified()).ok();
            if let Ok(guest) = Guest::read(&entry.path()) {
                found.push((built, guest));
            }
        }
        found.sort_by_key(|(built, _)| std::cmp::Reverse(*built));
        Ok(found.into_iter().map(|(_, guest)| guest).collect())
    }

    /// Picks a guest to boot: the newest of the wanted kind.
    ///
    /// # Errors
    /// [`Error::NoGuest`].
    pub fn find(&self, preference: Preference) -> Result<Guest> {
        let all = self.list()?;
        let of = |kind| {
            all.iter()
                .find(|guest| guest.manifest.kind == kind)
                .cloned()
        };
        let found = match preference {
            Preference::Only(kind) => of(kind),
            Preference::Auto => of(KernelKind::Tuned).or_else(|| of(KernelKind::Distro)),
        };
        found.ok_or_else(|| Error::NoGuest {
            path: self.root.clone(),
        })
    }
}

/// A built guest.
#[derive(Debug, Clone)]
pub struct Guest {
    dir: PathBuf,
    /// What it is made of.
    pub manifest: Manifest,
}

impl Guest {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        use std::io::Read;
        let path = dir.join("manifest.json");
        let damaged = |problem: String| Error::Manifest {
            path: dir.to_owned(),
            problem,
        };
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        let mut bytes = Vec::new();
        file.take(MANIFEST_MAX)
            .read_to_end(&mut bytes)
            .map_err(Error::file("read", &path))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| damaged(format!("is damaged: {e}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!(
                "has the unknown format {}",
                manifest.format
            )));
        }
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its files, kernel first, opened read-only. Sizes are compared with the manifest at every
    /// start; digests, which cost reading 20 MB, by [`Guest::verify`].
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Digest`].
    pub fn open(&self) -> Result<(OwnedFd, OwnedFd)> {
        let open = |name: &str, size: u64| {
            let path = self.dir.join(name);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::open(&path, flags, Mode::empty())
                .map_err(Error::file("open", &path))?;
            let stat = rustix::fs::fstat(&fd).map_err(Error::file("look at", &path))?;
            if u64::try_from(stat.st_size) != Ok(size) {
                return Err(Error::Digest {
                    path: self.dir.clone(),
                    file: name.to_owned(),
                });
            }
            Ok(fd)
        };
        let kernel = open("kernel", self.manifest.kernel.size)?;
        Ok((kernel, open("initramfs", self.manifest.initramfs.size)?))
    }

    /// Reads both files and compares their digests.
    ///
    /// # Errors
    /// [`Error::Digest`] for one that was changed.
    pub fn verify(&self) -> Result<()> {
        let files = [
            ("kernel", &self.manifest.kernel),
            ("initramfs", &self.manifest.initramfs),
        ];
        for (name, record) in files {
            let path = self.dir.join(name);
            let mut file = File::open(&path).map_err(Error::file("open", &path))?;
            let digest = Sha256::of_file(&mut file).map_err(Error::file("read", &path))?;
            if digest != record.sha256 {
                return Err(Error::Digest {
                    path: self.dir.clone(),
                    file: name.to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileRecord;

    fn guest(cache: &Cache, kind: KernelKind) -> PathBuf {
        let dir = cache.dir("guests").join(format!("{}-1", kind.word()));
        std::fs::create_dir(&dir).unwrap();
        let record = FileRecord {
            size: 3,
            sha256: Sha256::of(b"abc"),
        };
        let manifest = Manifest {
            format: FORMAT,
            kind,
            source: "test 1".into(),
            options: Sha256::of(b""),
            agent: Sha256::of(b""),
            kernel: record.clone(),
            initramfs: record,
        };
        for name in ["kernel", "initramfs"] {
            std::fs::write(dir.join(name), "abc").unwrap();
        }
        std::fs::write(
            dir.join("manifest.json"),
            serde_json::to_vec(&manifest).unwrap(),
        )
        .unwrap();
        dir
    }

    #[test]
    fn the_tuned_guest_is_preferred_and_none_says_how_to_build_one() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let text = cache.find(Preference::Auto).unwrap_err().to_string();
        assert!(text.contains("bulkhead guest build"), "{text}");
        guest(&cache, KernelKind::Distro);
        assert_eq!(
            cache.find(Preference::Auto).unwrap().manifest.kind,
            KernelKind::Distro
        );
        guest(&cache, KernelKind::Tuned);
        assert_eq!(
            cache.find(Preference::Auto).unwrap().manifest.kind,
            KernelKind::Tuned
        );
    }

    #[test]
    fn a_user_without_guests_boots_those_of_root() {
        let temp = tempfile::tempdir().unwrap();
        let (own, system) = (temp.path().join("own"), temp.path().join("system"));
        let dir = guest(&Cache::open(&system).unwrap(), KernelKind::Tuned);
        let find = |system| Cache::find_in(Ok(own.clone()), system, Preference::Auto);
        assert_eq!(find(Some(system.as_path())).unwrap().dir(), dir);
        // Where a cache was named, nothing else is looked at.
        let text = find(None).unwrap_err().to_string();
        assert!(text.contains("bulkhead guest build"), "{text}");
        let homeless = Cache::find_in(Err(Error::NoCachePlace), Some(&system), Preference::Auto);
        assert_eq!(homeless.unwrap().dir(), dir);

        let mine = guest(&Cache::open(&own).unwrap(), KernelKind::Distro);
        assert_eq!(find(Some(system.as_path())).unwrap().dir(), mine);
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let dir = guest(&cache, KernelKind::Tuned);
        let found = cache.find(Preference::Auto).unwrap();
        found.verify().unwrap();
        std::fs::write(dir.join("initramfs"), "abd").unwrap();
        assert!(matches!(found.verify(), Err(Error::Digest { .. })));
        std::fs::write(dir.join("kernel"), "longer").unwrap();
        assert!(matches!(found.open(), Err(Error::Digest { .. })));
    }
}
