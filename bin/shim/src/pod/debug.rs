//! A process in the guest outside of any container: it sees the guest as its
//! agent does, with programs of the host's beside it, since the guest has none.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_bundle::Bind;
use bulkhead_control::{DebugSpec, Tools};
use bulkhead_sandbox::{
    AgentError, ContainerConfig, HostStdio, Rootfs, Sandbox, StdioConfig, Volume,
};
use bulkhead_share::Detached;

use super::container::Shared;
use super::{Pod, control};
use crate::failure::{Failure, Outcome};
use crate::{machine, rootfs};

/// Layers of an image at most; overlayfs itself takes 500.
const LAYER_LIMIT: usize = 500;

/// Such a process, which goes with whoever asked for it.
pub(super) struct Debugged {
    id: String,
    sandbox: Arc<Sandbox>,
    shared: Vec<SharedName>,
    removed: bool,
}

/// A name in the share, taken out again.
struct SharedName {
    pod: Arc<Pod>,
    name: String,
}

impl Drop for SharedName {
    fn drop(&mut self) {
        if let Some(share) = self.pod.lock().share.as_mut() {
            share.remove(&self.name);
        }
    }
}

impl Pod {
    /// Makes one up to the moment before it is executed.
    pub(super) async fn debug(
        self: &Arc<Self>,
        spec: &DebugSpec,
        stdio: StdioConfig,
    ) -> Outcome<(Debugged, HostStdio)> {
        let sandbox = self.running()?;
        let busybox = matches!(spec.tools, Tools::Busybox(_));
        let own = bulkhead_bundle::debug(&spec.command, spec.terminal, busybox)?;
        let mut shared = Shared::new(self);
        let rootfs = self.tools_root(&spec.tools, &mut shared)?;
        let mut volumes = Vec::new();
        if let Tools::Busybox(path) = &spec.tools {
            let bind = Bind {
                mount: own.busybox,
                source: path.clone(),
                read_only: true,
                later: false,
            };
            volumes.push(Volume {
                tag: machine::SHARE.to_owned(),
                file: shared.add(&rootfs::bind(&rootfs::source(&bind)?, &bind)?)?,
                mount: u32::try_from(bind.mount + 1).unwrap_or(u32::MAX),
                ..Default::default()
            });
        }
        let id = control::fresh_name("debug");
        let config = ContainerConfig {
            id: id.clone(),
            spec: own.spec,
            rootfs,
            volumes,
            devices: Vec::new(),
            memory_volumes: Vec::new(),
            user: String::new(),
            seccomp: Vec::new(),
            stdio,
        };
        let (_, streams, _) = sandbox.create_container(config).await?;
        let names = shared.keep().into_iter().map(|name| SharedName {
            pod: Arc::clone(self),
            name,
        });
        let debugged = Debugged {
            id,
            sandbox,
            shared: names.collect(),
            removed: false,
        };
        Ok((debugged, streams))
    }

    /// What lies below the process's writable layer: with one program, nothing.
    fn tools_root(&self, tools: &Tools, shared: &mut Shared<'_>) -> Outcome<Rootfs> {
        let failed = |error: std::io::Error| Failure::from_error(&error);
        let empty = self.place.dir().join("empty");
        let path: &Path = match tools {
            Tools::Directory(path) => path,
            Tools::Layers(layers) => return tools_image(layers, shared),
            Tools::Busybox(_) => {
                std::fs::create_dir_all(&empty).map_err(failed)?;
                &empty
            }
        };
        let opened = [rootfs::directory(path)?];
        let tree = Detached::union(&opened, path).map_err(|error| Failure::from_error(&error))?;
        Ok(machine::rootfs(&shared.add(&tree)?))
    }
}

/// The layers of an image; the guest mounts them, not the host.
fn tools_image(layers: &[PathBuf], shared: &mut Shared<'_>) -> Outcome<Rootfs> {
    if layers.len() > LAYER_LIMIT {
        return Err(Failure::invalid(format!(
            "the image has more than {LAYER_LIMIT} layers"
        )));
    }
    let open = |path: &PathBuf| {
        rootfs::source(&Bind {
            mount: 0,
            source: path.clone(),
            read_only: true,
            later: false,
        })
    };
    let files: Outcome<Vec<OwnedFd>> = layers.iter().map(open).collect();
    Ok(machine::layered(shared.add_files(&files?)?))
}

impl Debugged {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(super) async fn start(&self) -> Result<(), AgentError> {
        self.sandbox.container(&self.id).start().await
    }

    /// Kills what is left of it and forgets it.
    pub(super) async fn remove(mut self) {
        self.removed = true;
        let _ = self.sandbox.container(&self.id).remove().await;
    }
}

impl Drop for Debugged {
    /// Whoever asked went away while it ran.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.removed {
            let container = self.sandbox.container(&self.id);
            let shared = std::mem::take(&mut self.shared);
            runtime.spawn(async move {
                // Gone with its machine, or here no more.
                let _ = container.remove().await;
                drop(shared);
            });
        }
    }
}
