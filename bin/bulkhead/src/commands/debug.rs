//! `bulkhead debug`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use bulkhead_control::{DebugSpec, Request, Tools};
use bulkhead_image::{Lease, Store};

use super::image::{Policy, obtain};
use super::target;
use crate::cli::{DebugOptions, RegistryOptions};
use crate::client::{Client, Wanted, terminal_size};
use crate::report::{CommandError, Outcome};
use crate::state::Root;

/// Looks into a pod's guest.
pub(super) fn run(root: &Root, options: DebugOptions) -> Outcome {
    let all = target::pods()?;
    let pod = bulkhead_status::pod(&all, &options.pod)?;
    let client = target::converse(&pod.dir)?;
    if options.console {
        return console(&client);
    }
    // Held as long as the command: the guest reads the layers all the time.
    let image = match &options.image {
        Some(name) => Some(Leased::obtain(root, name, options.registry)?),
        None => None,
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let spec = DebugSpec {
        command: options.command,
        tools: match &image {
            Some(image) => Tools::Layers(image.layers.clone()),
            None => tools(options.tools)?,
        },
        terminal,
        size: terminal_size().filter(|_| terminal),
    };
    let wanted = Wanted {
        stdin: true,
        terminal,
        proxy_signals: !terminal,
    };
    let attachment = client.attach(wanted, |streams| Request::Debug(Box::new(spec), streams))?;
    client.answer(attachment.number())?;
    client.run(attachment)
}

/// An image that is not removed meanwhile.
struct Leased {
    layers: Vec<PathBuf>,
    _lease: Lease,
}

impl Leased {
    fn obtain(root: &Root, name: &str, registry: RegistryOptions) -> Result<Self, CommandError> {
        let image = obtain(root, name, Policy::Missing, registry)?;
        let store = Store::open(&root.store())?;
        let lease = store.lease(&image.id)?;
        Ok(Self {
            layers: store.layer_files(&image)?,
            _lease: lease,
        })
    }
}

fn console(client: &Client) -> Outcome {
    let wanted = Wanted {
        stdin: false,
        terminal: false,
        proxy_signals: false,
    };
    let attachment = client.attach(wanted, Request::Console)?;
    client.answer(attachment.number())?;
    client.run(attachment)
}

/// The shim opens them: its directory is not ours.
fn tools(said: Option<PathBuf>) -> Result<Tools, CommandError> {
    if let Some(dir) = said {
        return Ok(Tools::Directory(std::path::absolute(dir)?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("busybox"))
        .find(|path| is_static(path));
    found.map(Tools::Busybox).ok_or_else(|| {
        CommandError::new(
            "there is no static `busybox` on PATH, and a guest has no programs of its own; \
             `apt install busybox-static`, or name a root filesystem with --tools",
        )
    })
}

/// An ELF program without an interpreter: one that runs where no library is.
/// elf(5).
fn is_static(path: &Path) -> bool {
    const INTERPRETER: u32 = 3;
    /// The program headers of a program are in its first page.
    const HEAD: usize = 4096;
    let mut head = vec![0; HEAD];
    let read = std::fs::File::open(path).and_then(|file| {
        use std::os::unix::fs::FileExt;
        file.read_at(&mut head, 0)
    });
    let Ok(length) = read else { return false };
    let head = &head[..length];
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        let mut all = [0; 8];
        all[..size].copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(all)).ok()
    };
    // 64 bit, little-endian.
    if head.get(..6) != Some(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    (0..count).all(|own| {
        let at = own.checked_mul(size).and_then(|at| at.checked_add(start));
        at.and_then(|at| number(at, 4))
            .is_some_and(|kind| kind != INTERPRETER as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_libraries_is_no_tool() {
        // Tests are linked dynamically.
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
        assert!(!is_static(Path::new("/nowhere")));
        assert!(is_static(Path::new("/bin/busybox")));
    }
}
