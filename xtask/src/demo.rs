//! The main job, shown: an image in its own kernel.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::run::{self, Outcome};
use crate::{Kernel, guest, prerequisites};

/// Installs what is missing, builds, makes an image, runs it.
pub(crate) fn run(yes: bool) -> Outcome {
    prerequisites::install(yes)?;
    run::command(run::cargo().args(["build", "--package", "bulkhead"]))?;
    // A tuned kernel takes minutes to compile; the distribution's is there at once.
    guest::build(if guest::has_tuned() {
        Kernel::Tuned
    } else {
        Kernel::Distro
    })?;
    let dir = run::workspace().join("target/demo");
    let image = dir.join("image");
    if !image.exists() {
        make_image(&dir, &image)?;
    }
    let reference = "oci:target/demo/image:latest";
    println!("\n== the host's kernel");
    run::command(Command::new("uname").arg("-sr"))?;
    println!("\n== the container's kernel: bulkhead run --rm --timings {reference} …");
    let script = "uname -sr; echo; echo \"hostname $(hostname), pid $$, user $(id -u)\"; \
        echo 'processes the container sees:'; ps; echo; \
        echo 'disks, all of the guest:'; cat /proc/partitions; echo; \
        grep -E 'MemTotal|MemAvailable' /proc/meminfo";
    bulkhead(
        &dir,
        &[
            "run",
            "--rm",
            "--timings",
            "--network",
            "none",
            reference,
            "sh",
            "-c",
            script,
        ],
    )?;
    println!("\n== --privileged: every right, inside the guest; the host's own value stays");
    let script = "mount -t tmpfs none /tmp && echo 'mounted a filesystem'; \
        echo 77 > /proc/sys/kernel/panic && echo \"set kernel.panic to $(cat /proc/sys/kernel/panic)\"";
    let privileged = [
        "run",
        "--rm",
        "--privileged",
        "--network",
        "none",
        reference,
    ];
    bulkhead(&dir, &[&privileged[..], &["sh", "-c", script]].concat())?;
    print!("on the host kernel.panic is ");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    run::command(Command::new("cat").arg("/proc/sys/kernel/panic"))
}

fn bulkhead(dir: &Path, args: &[&str]) -> Outcome {
    let program = run::workspace().join("target/debug/bulkhead");
    run::command(
        Command::new(program)
            .args(args)
            .env("BULKHEAD_ROOT", dir.join("root")),
    )
}

/// An image of one layer: static busybox, whose files are in `busybox` of `dir`.
pub(crate) fn make_image(dir: &Path, image: &Path) -> Outcome {
    let io = |error: std::io::Error| format!("the demo's image: {error}");
    let root = dir.join("busybox");
    for name in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(name)).map_err(io)?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(io)?;
    let links = [
        "sh", "ps", "id", "uname", "hostname", "cat", "echo", "grep", "dd", "sleep",
    ];
    for link in links {
        let path = root.join("bin").join(link);
        if !path.exists() {
            std::os::unix::fs::symlink("busybox", path).map_err(io)?;
        }
    }
    let half = dir.join("image.half");
    let _ = std::fs::remove_dir_all(&half);
    let tagged = write_layout(&root, &half)?;
    let mut config = Command::new("umoci");
    config.args(["config", "--image", &tagged, "--config.cmd", "/bin/sh"]);
    run::command(&mut config)?;
    std::fs::rename(&half, image).map_err(io)?;
    println!("made the image {}:latest", image.display());
    Ok(())
}

/// Writes an OCI layout with one image, `latest`, of one layer; gives its reference.
pub(crate) fn write_layout(root: &Path, layout: &Path) -> Outcome<String> {
    let umoci = |args: &[&str]| run::command(Command::new("umoci").args(args));
    let (root, layout) = (root.display().to_string(), layout.display().to_string());
    let tagged = format!("{layout}:latest");
    umoci(&["init", "--layout", &layout])?;
    umoci(&["new", "--image", &tagged])?;
    umoci(&["insert", "--image", &tagged, &root, "/"])?;
    Ok(tagged)
}
