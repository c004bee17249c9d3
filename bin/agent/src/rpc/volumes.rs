//! What a container is given beside its root filesystem: shares, mirrors of
//! them, memory.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bulkhead_protocol::{agent, name};
use oci_spec::runtime::{self, Spec};

use super::AgentService;
use super::failure::Failure;
use crate::disks::{self, Assembled};
use crate::mirror::Mirror;
use crate::{memory, sandbox_files};

/// Mirrored volumes of a sandbox at most.
const MIRROR_LIMIT: usize = 256;

/// What a failed creation takes back.
pub(super) struct Undo {
    pub(super) rootfs: Option<Assembled>,
    pub(super) volumes: Vec<PathBuf>,
    pub(super) memory: Vec<memory::Place>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        unmount(&self.volumes);
        if let Some(rootfs) = self.rootfs.take() {
            rootfs.destroy();
        }
    }
}

pub(super) fn unmount(volumes: &[PathBuf]) {
    for volume in volumes.iter().rev() {
        // A whole share, or the mount of a directory in one; a file in one is
        // no mount.
        let _ = rustix::mount::unmount(volume, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(volume);
    }
}

impl AgentService {
    /// Mounts the shares of a container's volumes, and tells its spec where.
    pub(super) async fn mount_volumes(
        &self,
        request: &agent::CreateContainerRequest,
        spec: &mut Spec,
        undo: &mut Undo,
    ) -> Result<(), Failure> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for volume in &request.volumes {
            if let Some(disk) = volume.disk.as_ref() {
                let mounted = crate::volumes::mount(disk, volume.group.as_ref()).await;
                set_source(
                    &mut mounts,
                    volume.mount,
                    mounted.map_err(Failure::invalid)?,
                )?;
                continue;
            }
            name::check(&volume.tag).map_err(Failure::invalid)?;
            let share = disks::mount_share(&volume.tag).map_err(Failure::invalid)?;
            let source = if volume.file.is_empty() {
                share
            } else {
                name::check(&volume.file).map_err(Failure::invalid)?;
                share.join(&volume.file)
            };
            let source = if volume.mirror {
                self.mirrored(&volume.tag, &volume.file, &source)?
            } else {
                undo.volumes.push(source.clone());
                source
            };
            if volume.mount != 0 {
                set_source(&mut mounts, volume.mount, source)?;
                continue;
            }
            let mut options: Vec<&str> = volume.options.iter().map(String::as_str).collect();
            options.extend(["rbind", if volume.read_only { "ro" } else { "rw" }]);
            mounts.push(sandbox_files::bind(
                &source,
                volume.target.as_ref(),
                &options,
            ));
        }
        spec.set_mounts(Some(mounts));
        Ok(())
    }

    /// Where the mirror of a volume is, made if need be, as the volume is now.
    fn mirrored(&self, tag: &str, file: &str, source: &Path) -> Result<PathBuf, Failure> {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tag.to_owned(), file.to_owned());
        if !mirrors.contains_key(&key) {
            if mirrors.len() >= MIRROR_LIMIT {
                return Err(Failure::internal("the sandbox mirrors too many volumes"));
            }
            let made = Mirror::new(&format!("{tag}-{file}"), source).map_err(Failure::invalid)?;
            mirrors.insert(key.clone(), made);
        }
        let mirror = &mirrors[&key];
        mirror.follow().map_err(Failure::invalid)?;
        Ok(mirror.path().to_owned())
    }
}

/// Gives mounts of the spec the guest's memory as their source.
pub(super) fn place_memory(
    request: &agent::CreateContainerRequest,
    spec: &mut Spec,
    undo: &mut Undo,
) -> Result<(), Failure> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for volume in &request.memory_volumes {
        let place = memory::place(volume).map_err(Failure::invalid)?;
        set_source(&mut mounts, volume.mount, place.path().to_owned())?;
        undo.memory.push(place);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// `number` counts from 1.
fn set_source(mounts: &mut [runtime::Mount], number: u32, source: PathBuf) -> Result<(), Failure> {
    let place = (number as usize).checked_sub(1);
    let mount = place.and_then(|place| mounts.get_mut(place));
    mount
        .ok_or_else(|| Failure::invalid_text("a volume of a mount the spec lacks".into()))?
        .set_source(Some(source));
    Ok(())
}
