//! Where blobs come from: a layout directory, a tar of one, or a registry.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::registry::Registry;
use crate::verify::{self, Hashing, sha256_hex};
use crate::{Error, ImageRef, Result};

/// Largest index or manifest, bytes.
const MANIFEST_MAX: u64 = 4 << 20;
/// Largest configuration, bytes.
const CONFIG_MAX: u64 = 8 << 20;
/// Layers of an image at most; the guest's overlay takes 500.
pub(crate) const LAYERS_MAX: usize = 500;
/// Members of an archive at most.
const MEMBERS_MAX: usize = 100_000;
/// Indexes inside each other at most.
const DEPTH_MAX: usize = 4;

/// One layer to be had.
#[derive(Debug, Clone)]
pub(crate) struct LayerBlob {
    pub(crate) diff_id: String,
    /// Digest and size of the blob; a docker archive has none but the diffID.
    pub(crate) blob: Option<(String, u64)>,
    /// Name of the file in the source.
    name: String,
}

/// An image as a source describes it, verified.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) config: ImageConfiguration,
    pub(crate) config_text: Vec<u8>,
    pub(crate) layers: Vec<LayerBlob>,
}

/// An open source.
pub(crate) enum Source {
    Directory {
        fd: std::os::fd::OwnedFd,
        path: PathBuf,
    },
    Archive {
        file: File,
        path: PathBuf,
        members: HashMap<String, (u64, u64)>,
    },
    Registry(Registry),
}

impl Source {
    pub(crate) fn open(reference: &ImageRef, insecure: bool) -> Result<Self> {
        match reference {
            ImageRef::Layout { path, .. } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, Mode::empty())
                    .map_err(Error::file("open the OCI layout", path))?;
                Ok(Self::Directory {
                    fd,
                    path: path.clone(),
                })
            }
            ImageRef::OciArchive { path, .. } | ImageRef::DockerArchive { path, .. } => {
                open_archive(path)
            }
            ImageRef::Registry(name) => Registry::open(name, insecure).map(Self::Registry),
        }
    }

    /// A file of the source and its size.
    fn file(&self, name: &str, what: &'static str) -> Result<(Box<dyn Read>, u64)> {
        let missing = || Error::Missing {
            what,
            name: name.to_owned(),
        };
        match self {
            Self::Directory { fd, path } => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let opened = rustix::fs::openat2(fd, name, flags, Mode::empty(), resolve);
                let file = match opened {
                    Err(rustix::io::Errno::NOENT) => return Err(missing()),
                    other => File::from(other.map_err(Error::file("open", path.join(name)))?),
                };
                let meta = file
                    .metadata()
                    .map_err(Error::file("look at", path.join(name)))?;
                if !meta.is_file() {
                    return Err(missing());
                }
                Ok((Box::new(file), meta.len()))
            }
            Self::Archive {
                file,
                path,
                members,
            } => {
                let (offset, size) = *members.get(name).ok_or_else(missing)?;
                let mut file = file
                    .try_clone()
                    .and_then(|_| File::open(path))
                    .map_err(Error::file("open", path))?;
                file.seek(SeekFrom::Start(offset))
                    .map_err(Error::file("read", path))?;
                Ok((Box::new(file.take(size)), size))
            }
            // Its blobs have digests, not names.
            Self::Registry(_) => Err(missing()),
        }
    }

    /// A blob, which may hold other bytes than its digest says.
    fn blob(&self, digest: &str, size: u64, what: &'static str) -> Result<Box<dyn Read>> {
        if let Self::Registry(registry) = self {
            return registry.blob(digest);
        }
        let (file, actual) = self.file(&blob_name(digest)?, what)?;
        if actual != size {
            return Err(Error::Blob {
                digest: digest.to_owned(),
                problem: format!("it has {actual} bytes, the manifest says {size}"),
            });
        }
        Ok(file)
    }

    /// A blob whose digest is checked before anybody sees it.
    fn document(&self, descriptor: &Descriptor, what: &'static str, max: u64) -> Result<Vec<u8>> {
        let digest = descriptor.digest().to_string();
        let size = descriptor.size();
        if size > max {
            return Err(Error::TooLarge(format!("its {what} has {size} bytes")));
        }
        let bytes = match self {
            Self::Registry(registry) if what == "manifest" => {
                registry.manifest_by_digest(&digest)?
            }
            _ => read_bounded(self.blob(&digest, size, what)?, &digest, size)?,
        };
        if verify::of(&bytes) != digest || bytes.len() as u64 != descriptor.size() {
            return Err(Error::Blob {
                digest,
                problem: "its digest or size differs".to_owned(),
            });
        }
        Ok(bytes)
    }

    fn bytes(&self, name: &str, what: &'static str, max: u64) -> Result<Vec<u8>> {
        let (file, size) = self.file(name, what)?;
        if size > max {
            return Err(Error::TooLarge(format!("its {what} has {size} bytes")));
        }
        read_bounded(file, name, max)
    }

    /// Finds the image a reference names.
    pub(crate) fn find(&self, reference: &ImageRef) -> Result<Found> {
        match reference {
            ImageRef::DockerArchive { tag, .. } => self.find_docker(tag.as_deref()),
            ImageRef::Layout { tag, .. } | ImageRef::OciArchive { tag, .. } => {
                let text = self.bytes("index.json", "index", MANIFEST_MAX)?;
                let index: ImageIndex =
                    serde_json::from_slice(&text).map_err(|source| Error::Document {
                        what: "index",
                        source,
                    })?;
                self.find_oci(choose(&index, tag.as_deref())?, 0)
            }
            ImageRef::Registry(_) => self.find_in_registry(),
        }
    }

    fn find_in_registry(&self) -> Result<Found> {
        let Self::Registry(registry) = self else {
            return Err(Error::Unfit("it is not in a registry".to_owned()));
        };
        let text = registry.manifest()?;
        let digest = verify::of(&text);
        if let Some(asked) = registry.asked_digest().filter(|asked| *asked != digest) {
            return Err(Error::Blob {
                digest: asked.to_owned(),
                problem: format!("its content is `{digest}`"),
            });
        }
        self.find_by_manifest(&text, 0)
    }

    fn find_oci(&self, descriptor: &Descriptor, depth: usize) -> Result<Found> {
        if depth > DEPTH_MAX {
            return Err(Error::Unfit("its indexes nest too deeply".to_owned()));
        }
        let text = self.document(descriptor, "manifest", MANIFEST_MAX)?;
        self.find_by_manifest(&text, depth)
    }

    /// Finds an image by its manifest, or by an index: the two are told apart by what they hold,
    /// because registries and layouts disagree on types.
    fn find_by_manifest(&self, text: &[u8], depth: usize) -> Result<Found> {
        #[derive(serde::Deserialize)]
        struct Kind {
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let kind: Kind = serde_json::from_slice(text).map_err(|source| Error::Document {
            what: "manifest",
            source,
        })?;
        if kind.manifests.is_some() && (kind.layers.is_some() || kind.config.is_some()) {
            // Each reader would see another image in it: CVE-2021-41190.
            return Err(Error::Unfit(
                "its manifest is an index too, and may mean either".to_owned(),
            ));
        }
        if kind.manifests.is_some() {
            let index: ImageIndex =
                serde_json::from_slice(text).map_err(|source| Error::Document {
                    what: "index",
                    source,
                })?;
            return self.find_oci(choose_platform(&index)?, depth + 1);
        }
        let manifest: ImageManifest =
            serde_json::from_slice(text).map_err(|source| Error::Document {
                what: "manifest",
                source,
            })?;
        let config_text = self.document(manifest.config(), "configuration", CONFIG_MAX)?;
        let id = manifest.config().digest().to_string();
        let config = parse_config(&config_text)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return Err(Error::Unfit(format!(
                "its manifest has {} layers and its configuration {}",
                manifest.layers().len(),
                diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for (diff_id, layer) in diff_ids.iter().zip(manifest.layers()) {
            let digest = layer.digest().to_string();
            layers.push(LayerBlob {
                diff_id: checked(diff_id)?,
                name: blob_name(&digest)?,
                blob: Some((digest, layer.size())),
            });
        }
        Ok(Found {
            id,
            config,
            config_text,
            layers,
        })
    }

    fn find_docker(&self, tag: Option<&str>) -> Result<Found> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let text = self.bytes("manifest.json", "manifest", MANIFEST_MAX)?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&text).map_err(|source| Error::Document {
                what: "manifest",
                source,
            })?;
        let wanted = |saved: &&Saved| match tag {
            None => true,
            Some(tag) => saved.repo_tags.iter().flatten().any(|name| {
                name == tag || name.rsplit_once(':').is_some_and(|(_, own)| own == tag)
            }),
        };
        let saved = saved.iter().find(wanted).ok_or_else(|| Error::Missing {
            what: "tag",
            name: tag.unwrap_or("of any name").to_owned(),
        })?;
        let config_text = self.bytes(&saved.config, "configuration", CONFIG_MAX)?;
        let config = parse_config(&config_text)?;
        if config.rootfs().diff_ids().len() != saved.layers.len() {
            return Err(Error::Unfit(
                "its layers and its configuration differ".to_owned(),
            ));
        }
        let mut layers = Vec::new();
        for (diff_id, name) in config.rootfs().diff_ids().iter().zip(&saved.layers) {
            layers.push(LayerBlob {
                diff_id: checked(diff_id)?,
                name: name.clone(),
                blob: None,
            });
        }
        Ok(Found {
            id: verify::of(&config_text),
            config,
            config_text,
            layers,
        })
    }

    /// A layer's blob, its digest and size checked as it is read to its end by `work`.
    pub(crate) fn layer<T>(
        &self,
        layer: &LayerBlob,
        work: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        let Some((digest, announced)) = &layer.blob else {
            return work(&mut self.file(&layer.name, "layer")?.0);
        };
        let blob = self.blob(digest, *announced, "layer")?;
        // No more than announced: what follows would only be hashed to be refused.
        let mut hashing = Hashing::new(blob.take(announced.saturating_add(1)));
        let done = work(&mut hashing);
        let actual = hashing
            .finish()
            .map_err(Error::file("read", &layer.name))?
            .0;
        // Damage explains any failure of the work better than its own error.
        if actual != *digest {
            return Err(Error::Blob {
                digest: digest.clone(),
                problem: format!("its content is `{actual}`"),
            });
        }
        done
    }
}

fn read_bounded(from: impl Read, name: &str, max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max)
        .read_to_end(&mut bytes)
        .map_err(Error::file("read", name))?;
    Ok(bytes)
}

fn open_archive(path: &Path) -> Result<Source> {
    let file = File::open(path).map_err(Error::file("open the archive", path))?;
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(&file);
    let entries = archive
        .entries_with_seek()
        .map_err(Error::file("read the archive", path))?;
    for entry in entries {
        let entry = entry.map_err(Error::file("read the archive", path))?;
        if members.len() >= MEMBERS_MAX {
            return Err(Error::TooLarge(format!(
                "an archive of more than {MEMBERS_MAX} files"
            )));
        }
        if entry.header().entry_type().is_file() {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            members.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(Source::Archive {
        file,
        path: path.to_owned(),
        members,
    })
}

fn blob_name(digest: &str) -> Result<String> {
    let hex = sha256_hex(digest)
        .ok_or_else(|| Error::Unfit(format!("`{}` is no SHA-256 digest", shorten(digest))))?;
    Ok(format!("blobs/sha256/{hex}"))
}

fn checked(diff_id: &str) -> Result<String> {
    sha256_hex(diff_id)
        .map(|_| diff_id.to_owned())
        .ok_or_else(|| Error::Unfit(format!("`{}` is no SHA-256 digest", shorten(diff_id))))
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn parse_config(text: &[u8]) -> Result<ImageConfiguration> {
    let config: ImageConfiguration =
        serde_json::from_slice(text).map_err(|source| Error::Document {
            what: "configuration",
            source,
        })?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
        return Err(Error::Unfit(format!(
            "it is made for {}/{}, this machine is linux/amd64",
            config.os(),
            config.architecture()
        )));
    }
    match config.rootfs().diff_ids().len() {
        0 => Err(Error::Unfit("it has no layers".to_owned())),
        count if count > LAYERS_MAX => Err(Error::TooLarge(format!("{count} layers"))),
        _ => Ok(config),
    }
}

fn choose<'a>(index: &'a ImageIndex, tag: Option<&str>) -> Result<&'a Descriptor> {
    const NAME: &str = "org.opencontainers.image.ref.name";
    let name = |descriptor: &&Descriptor| {
        let names = descriptor.annotations().as_ref();
        names.and_then(|names| names.get(NAME)).map(String::as_str) == tag
    };
    if tag.is_some() {
        let missing = || Error::Missing {
            what: "tag",
            name: tag.unwrap_or_default().to_owned(),
        };
        return index.manifests().iter().find(name).ok_or_else(missing);
    }
    match index.manifests().as_slice() {
        [] => Err(Error::Unfit("it holds no image".to_owned())),
        [one] => Ok(one),
        many if many.iter().all(|one| one.platform().is_some()) => choose_platform(index),
        many => Err(Error::Unfit(format!(
            "it holds {} images; write oci:PATH:TAG",
            many.len()
        ))),
    }
}

fn choose_platform(index: &ImageIndex) -> Result<&Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|platform| {
            *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
        })
    };
    index
        .manifests()
        .iter()
        .find(fits)
        .ok_or_else(|| Error::Unfit("it has no variant for linux/amd64".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_an_index_too_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let reference = ImageRef::Layout {
            path: dir.path().to_owned(),
            tag: None,
        };
        let source = Source::open(&reference, false).unwrap();
        for text in [
            r#"{"manifests": [], "layers": []}"#,
            r#"{"manifests": [], "config": {}}"#,
        ] {
            let refused = source.find_by_manifest(text.as_bytes(), 0).unwrap_err();
            assert!(matches!(refused, Error::Unfit(_)), "{refused}");
        }
    }
}
