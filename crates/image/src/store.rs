//! Images and layers on disk.
//!
//! ```text
//!   STORE/layers/<diffID>.erofs   0444, whole or not there
//!         images/<id>.json        names, configuration, layers; a container holds a shared lock
//!         tmp/<diffID>            being converted, locked by who does it
//!         lock                    held for changes of images/
//!         pulls                   shared by pulls, alone for a prune
//! ```

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::layer::{self, LayerLimits};
use crate::source::{Found, LayerBlob, Source};
use crate::verify::sha256_hex;
use crate::{Error, ImageRef, Result};

/// Largest record read back, bytes.
const RECORD_MAX: u64 = 16 << 20;

/// Receives what a pull does.
pub trait Progress {
    /// Layer `number` of `count` is being converted.
    fn layer(&mut self, number: usize, count: usize);
}

/// How a pull is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct PullOptions {
    /// What a layer may hold.
    pub limits: LayerLimits,
    /// Talk to a registry without a trusted certificate, or without TLS.
    pub insecure: bool,
}

impl Progress for () {
    fn layer(&mut self, _: usize, _: usize) {}
}

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An image whose layers are in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// What it was pulled as.
    pub names: Vec<String>,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// diffIDs of its layers, bottom to top.
    pub layers: Vec<String>,
    /// Bytes of its layers in the store.
    pub size: u64,
}

/// An open layer.
#[derive(Debug)]
pub struct LayerFile {
    /// The EROFS image, read-only.
    pub file: OwnedFd,
    /// Bytes; a multiple of 4096.
    pub size: u64,
}

/// Keeps an image from being removed while it lives.
#[derive(Debug)]
pub struct Lease {
    _record: File,
}

impl Store {
    /// Opens or makes the store at `root`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(root: &Path) -> Result<Self> {
        for name in ["layers", "images", "tmp"] {
            let dir = root.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Error::file("make", &dir))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn layer_path(&self, diff_id: &str) -> Result<PathBuf> {
        let hex = sha256_hex(diff_id).ok_or_else(|| Error::NotFound(diff_id.to_owned()))?;
        Ok(self.root.join("layers").join(format!("{hex}.erofs")))
    }

    fn record_path(&self, id: &str) -> Result<PathBuf> {
        let hex = sha256_hex(id).ok_or_else(|| Error::NotFound(id.to_owned()))?;
        Ok(self.root.join("images").join(format!("{hex}.json")))
    }

    /// Held while images are added or removed.
    fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = open_lock(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// Brings an image into the store; layers that are there are not read again.
    ///
    /// # Errors
    /// Whatever is wrong with the image, or with the disk.
    pub fn pull(
        &self,
        reference: &ImageRef,
        options: PullOptions,
        progress: &mut dyn Progress,
    ) -> Result<Image> {
        let _pulling = self.pulls(FlockOperation::LockShared)?;
        let source = Source::open(reference, options.insecure)?;
        let found = source.find(reference)?;
        let count = found.layers.len();
        for (index, layer) in found.layers.iter().enumerate() {
            if !self.layer_path(&layer.diff_id)?.exists() {
                progress.layer(index + 1, count);
                self.convert(&source, layer, options.limits)?;
            }
        }
        self.record(reference, found)
    }

    /// Converts a layer unless somebody else just did. A killed conversion leaves a file in tmp
    /// that the next one of the same layer, or a prune, takes over.
    fn convert(&self, source: &Source, layer: &LayerBlob, limits: LayerLimits) -> Result<()> {
        let target = self.layer_path(&layer.diff_id)?;
        let name = target.file_name().unwrap_or_default();
        let half = self.root.join("tmp").join(name);
        let lock_path = half.with_extension("lock");
        let _lock = lock_layer(&lock_path)?;
        if target.exists() {
            return Ok(());
        }
        let done = self.write_layer(source, layer, limits, &half, &target);
        if done.is_err() {
            let _ = std::fs::remove_file(&half);
        }
        let _ = std::fs::remove_file(&lock_path);
        done
    }

    fn write_layer(
        &self,
        source: &Source,
        layer: &LayerBlob,
        limits: LayerLimits,
        half: &Path,
        target: &Path,
    ) -> Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(half)
            .map_err(Error::file("make", half))?;
        let file = source.layer(layer, |blob| {
            layer::convert(blob, &layer.diff_id, limits, file)
        })?;
        // Read by monitors that run as users of their own.
        file.set_permissions(std::fs::Permissions::from_mode(0o444))
            .and_then(|()| file.sync_all())
            .map_err(Error::file("write", half))?;
        std::fs::rename(half, target).map_err(Error::file("move", half))
    }

    fn record(&self, reference: &ImageRef, found: Found) -> Result<Image> {
        let _lock = self.lock()?;
        let name = reference.to_string();
        let mut size = 0;
        for layer in &found.layers {
            let path = self.layer_path(&layer.diff_id)?;
            size += path
                .metadata()
                .map_err(Error::file("look at", &path))?
                .len();
        }
        let mut names = Vec::new();
        for mut other in self.list()? {
            if other.id == found.id {
                names = other.names;
            } else if other.names.contains(&name) {
                // A tag moved on.
                other.names.retain(|old| *old != name);
                self.write(&other)?;
            }
        }
        let known = names.contains(&name);
        if !known {
            names.push(name);
        }
        let image = Image {
            id: found.id,
            names,
            config: found.config,
            layers: found
                .layers
                .into_iter()
                .map(|layer| layer.diff_id)
                .collect(),
            size,
        };
        debug_assert!(
            !found.config_text.is_empty(),
            "a configuration was verified"
        );
        if !known || !self.record_path(&image.id)?.exists() {
            self.write(&image)?;
        }
        Ok(image)
    }

    fn write(&self, image: &Image) -> Result<()> {
        let path = self.record_path(&image.id)?;
        let new = self.root.join("tmp").join("record");
        let text = serde_json::to_vec(image).map_err(|source| Error::Document {
            what: "record",
            source,
        })?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .map_err(Error::file("make", &new))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(Error::file("write", &new))?;
        std::fs::rename(&new, &path).map_err(Error::file("write", &path))
    }

    /// Every image.
    ///
    /// # Errors
    /// [`Error::File`] when the store cannot be listed. A damaged record is left out.
    pub fn list(&self) -> Result<Vec<Image>> {
        let dir = self.root.join("images");
        let entries = std::fs::read_dir(&dir).map_err(Error::file("list", &dir))?;
        let mut images: Vec<Image> = entries
            .flatten()
            .filter_map(|entry| read_record(&entry.path()).ok())
            .collect();
        images.sort_by(|one, two| one.names.cmp(&two.names));
        Ok(images)
    }

    /// The image with this name, id, or beginning of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<Image> {
        let fits = |image: &Image| {
            let hex = image.id.trim_start_matches("sha256:");
            let prefix = name.len() >= 6 && hex.starts_with(name);
            image.names.iter().any(|own| own == name) || image.id == name || prefix
        };
        let found = self.list()?.into_iter().find(fits);
        found.ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    /// Opens an image's layers, bottom to top.
    ///
    /// # Errors
    /// [`Error::Missing`] when one is gone: pull the image again.
    pub fn open_layers(&self, image: &Image) -> Result<Vec<LayerFile>> {
        let open = |diff_id: &String| {
            let path = self.layer_path(diff_id)?;
            let file = File::open(&path).map_err(|_| Error::Missing {
                what: "layer",
                name: diff_id.clone(),
            })?;
            let size = file
                .metadata()
                .map_err(Error::file("look at", &path))?
                .len();
            Ok(LayerFile {
                file: file.into(),
                size,
            })
        };
        image.layers.iter().map(open).collect()
    }

    /// Where an image's layers are, bottom to top: EROFS images.
    ///
    /// # Errors
    /// [`Error::Missing`] when one is gone: pull the image again.
    pub fn layer_files(&self, image: &Image) -> Result<Vec<PathBuf>> {
        let find = |diff_id: &String| {
            let path = self.layer_path(diff_id)?;
            let missing = || Error::Missing {
                what: "layer",
                name: diff_id.clone(),
            };
            path.exists().then_some(path).ok_or_else(missing)
        };
        image.layers.iter().map(find).collect()
    }

    /// Keeps an image, and with it its layers, while the lease lives.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn lease(&self, id: &str) -> Result<Lease> {
        let path = self.record_path(id)?;
        let record = File::open(&path).map_err(|_| Error::NotFound(id.to_owned()))?;
        rustix::fs::flock(&record, FlockOperation::LockShared)
            .map_err(Error::file("lock", &path))?;
        // Removed between the open and the lock: there is nothing to keep.
        if !path.exists() {
            return Err(Error::NotFound(id.to_owned()));
        }
        Ok(Lease { _record: record })
    }

    /// Removes an image; its layers go with the next prune.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InUse`].
    pub fn remove(&self, name: &str) -> Result<Image> {
        let _lock = self.lock()?;
        let image = self.get(name)?;
        let path = self.record_path(&image.id)?;
        let record = File::open(&path).map_err(Error::file("open", &path))?;
        rustix::fs::flock(&record, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::InUse(name.to_owned()))?;
        std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        Ok(image)
    }

    /// Removes layers no image needs and what killed conversions left; gives the bytes freed.
    ///
    /// # Errors
    /// [`Error::Pulling`] while an image arrives, [`Error::File`].
    pub fn prune(&self) -> Result<u64> {
        let _alone = self
            .pulls(FlockOperation::NonBlockingLockExclusive)?
            .ok_or(Error::Pulling)?;
        let _lock = self.lock()?;
        let needed: HashSet<PathBuf> = self
            .list()?
            .iter()
            .flat_map(|image| &image.layers)
            .map(|diff_id| self.layer_path(diff_id))
            .collect::<Result<_>>()?;
        let mut freed = 0;
        for name in ["layers", "tmp"] {
            let dir = self.root.join(name);
            let entries = std::fs::read_dir(&dir).map_err(Error::file("list", &dir))?;
            for entry in entries {
                let entry = entry.map_err(Error::file("list", &dir))?;
                let path = entry.path();
                if !needed.contains(&path) {
                    freed += entry.metadata().map_or(0, |meta| meta.len());
                    std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                }
            }
        }
        Ok(freed)
    }

    /// Held shared by every pull, from before it looks which layers are there until its image is
    /// recorded; held alone by who removes layers. `None` when that would have to wait.
    fn pulls(&self, operation: FlockOperation) -> Result<Option<File>> {
        let path = self.root.join("pulls");
        let file = open_lock(&path)?;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::file("lock", &path)(error)),
        }
    }
}

fn read_record(path: &Path) -> Result<Image> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut text = Vec::new();
    file.take(RECORD_MAX)
        .read_to_end(&mut text)
        .map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Document {
        what: "record",
        source,
    })
}

/// A file that is only locked, made where it is missing.
fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("open", path))
}

/// Locks the conversion of a layer. Whoever held the lock before removed its file: a lock on a file
/// that is not there any more excludes nobody, and is taken again.
fn lock_layer(path: &Path) -> Result<File> {
    loop {
        let lock = open_lock(path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(Error::file("lock", path))?;
        let own = lock.metadata().map_err(Error::file("look at", path))?;
        let there = path.metadata().is_ok_and(|meta| meta.ino() == own.ino());
        if there {
            return Ok(lock);
        }
    }
}
