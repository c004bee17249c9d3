//! The initramfs: the agent as /init, a console, and a distribution kernel's modules.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cpio::{Kind, Writer};
use crate::{Error, Result, Sha256};

/// Directories the agent mounts things on.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "run", "root"];

/// Reads the agent and checks that it can be a guest's first process.
pub(crate) fn read_agent(path: &Path) -> Result<(Vec<u8>, Sha256)> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    crate::elf::check_static(&bytes).map_err(|problem| Error::BadAgent {
        path: path.to_owned(),
        problem,
    })?;
    let digest = Sha256::of(&bytes);
    Ok((bytes, digest))
}

/// Writes it to `path`. Modules are named so that the order of names is the order of loading.
pub(crate) fn write(path: &Path, agent: &[u8], modules: &[PathBuf]) -> Result<()> {
    let bytes = archive(agent, modules)?;
    let mut file = std::fs::File::create(path).map_err(Error::file("make", path))?;
    file.write_all(&bytes).map_err(Error::file("write", path))
}

fn archive(agent: &[u8], modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut out = Writer::new(Vec::new());
    let failed = |name: &str| Error::file("add to the initramfs", name.to_owned());
    for name in DIRECTORIES {
        out.add(name, Kind::Directory, 0o755, b"")
            .map_err(failed(name))?;
    }
    // The standard library aborts without open standard streams.
    out.add("dev/console", Kind::CharDevice(5, 1), 0o600, b"")
        .map_err(failed("dev/console"))?;
    out.add("init", Kind::File, 0o555, agent)
        .map_err(failed("init"))?;
    if !modules.is_empty() {
        out.add("modules", Kind::Directory, 0o755, b"")
            .map_err(failed("modules"))?;
    }
    for (index, module) in modules.iter().enumerate() {
        let data = std::fs::read(module).map_err(Error::file("read", module))?;
        let file = module.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("modules/{index:03}-{file}");
        out.add(&name, Kind::File, 0o444, &data)
            .map_err(failed(&name))?;
    }
    out.finish().map_err(failed("the end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio;

    #[test]
    fn the_same_agent_gives_the_same_bytes_with_init_and_a_console() {
        let temp = tempfile::tempdir().unwrap();
        let module = temp.path().join("erofs.ko");
        std::fs::write(&module, b"module").unwrap();
        let one = archive(b"agent", std::slice::from_ref(&module)).unwrap();
        assert_eq!(one, archive(b"agent", &[module]).unwrap());
        let entries = cpio::entries(&one).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
        assert!(names.contains(&"init") && names.contains(&"dev/console"));
        assert!(names.contains(&"modules/000-erofs.ko"));
    }
}
