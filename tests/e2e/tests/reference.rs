//! The same image, unpacked by umoci and seen in a container: every file
//! alike in type, mode, owner, size, links, device, time and content. (One
//! difference is overlayfs itself: a file of which another layer hides a second
//! name keeps its old count of links.)

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use bulkhead_e2e::{Host, busybox_image, tool};

/// Prints everything below /data.
const LIST: &str = r#"cd / && find data | sort | while read -r f; do
    if [ -d "$f" ] && [ ! -L "$f" ]; then stat -c '%n %F %a %u %g %Y' "$f"
    else stat -c '%n %F %a %u %g %s %h %t,%T %Y' "$f"; fi
    [ -L "$f" ] && readlink "$f"; [ -f "$f" ] && [ ! -L "$f" ] && sha256sum < "$f"; done; true"#;

/// Makes a tree by a shell script, packs it, adds it as a layer.
fn layer(dir: &Path, image: &str, name: &str, script: &str) {
    let tree = dir.join(name);
    std::fs::create_dir(&tree).unwrap();
    let tar = dir.join(format!("{name}.tar")).display().to_string();
    let made = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&tree)
        .status()
        .unwrap();
    assert!(made.success(), "{name}");
    let tree = tree.display().to_string();
    tool(
        "tar",
        &[
            "--create",
            "--format=posix",
            "--sparse",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
            &tar,
            "--directory",
            &tree,
            "data",
        ],
    );
    tool("umoci", &["raw", "add-layer", "--image", image, &tar]);
}

#[test]
fn layers_look_as_umoci_unpacks_them() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    busybox_image(dir);
    let layout = dir.join("image").display().to_string();
    let image = format!("{layout}:latest");
    layer(
        dir,
        &image,
        "one",
        r#"
        mkdir -p data/gone data/opaque data/kept/deep; chmod 1777 data/kept
        echo old > data/changed; echo a > data/gone/file; echo hidden > data/opaque/old
        echo link > data/first; ln data/first data/second; ln -s ../etc/passwd data/symlink
        cp /bin/true data/setuid; chmod 6755 data/setuid; chown 70000:33 data/setuid
        mkfifo data/pipe; mknod data/node c 1 3; mknod data/disk b 254 700
        truncate -s 3M data/sparse; echo end >> data/sparse
        long=$(printf 'n%.0s' $(seq 250)); echo long > data/$long
        mkdir -p data/$long-d/$long; echo deep > data/$long-d/$long/file
        ln -s $(printf 'x%.0s' $(seq 2500)) data/longlink; touch -d @1000000000.5 data/dated; echo x > data/removed"#,
    );
    layer(
        dir,
        &image,
        "two",
        r#"
        mkdir -p data/opaque data/kept; chmod 1777 data/kept
        touch data/.wh.gone data/opaque/.wh..wh..opq data/.wh.removed
        echo new > data/opaque/new; echo changed > data/changed; chmod 600 data/changed
        ln -s data data/kept/was-dir"#,
    );
    for number in 0..100 {
        let script = format!(
            "mkdir -p data/many; echo {number} > data/many/{number}; echo {number} > data/many/last"
        );
        layer(dir, &image, &format!("n{number}"), &script);
    }
    look_alike(dir, &image, LIST, 60);
}

/// Unpacks the image by umoci, and runs a script there and in a container: at
/// least so many lines have to be the same.
fn look_alike(dir: &Path, image: &str, script: &str, least: usize) {
    let unpacked = dir.join("unpacked");
    tool(
        "umoci",
        &["unpack", "--image", image, &unpacked.display().to_string()],
    );
    let wanted = Command::new("chroot")
        .arg(unpacked.join("rootfs"))
        .args(["/bin/sh", "-c", script])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&wanted.stderr).into_owned();
    let wanted = String::from_utf8(wanted.stdout).unwrap();
    assert!(
        wanted.lines().count() > least,
        "the reference itself is wrong: {wanted}{told}"
    );

    let host = Host::new();
    let reference = format!("oci:{image}");
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        &reference,
        "sh",
        "-c",
        script,
    ];
    let answer = host.bulkhead(&run);
    assert_eq!(answer.code, 0, "{answer:?}");
    for (ours, theirs) in answer.out.lines().zip(wanted.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(answer.out.lines().count(), wanted.lines().count());
}

/// Prints what `LIST` does not: extended attributes, the size and what is at
/// the far end of a huge file, directories no layer mentions.
const FURTHER: &str = "cd / && getfattr --dump --match '^(user|security)\\.' --absolute-names \
    --no-dereference --recursive data; \
    stat -c '%n %s' data/huge; tail -c 4 data/huge; dd if=data/huge bs=1 skip=4294967290 count=20 \
    2>/dev/null | od -c; stat -c '%n %F %a %u %g' implied implied/a implied/a/b implied/a/b/file";

#[test]
fn attributes_huge_files_and_implied_directories_too() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    busybox_image(dir);
    let layout = dir.join("image").display().to_string();
    let image = format!("{layout}:latest");
    layer(
        dir,
        &image,
        "one",
        r#"
        mkdir data; touch data/plain data/able data/both
        setcap cap_net_raw+ep data/able
        setfattr -n user.one -v 1 data/plain; setfattr -n user.long -v $(printf 'x%.0s' $(seq 900)) data/both
        setfattr -n user.dir -v d data; setcap cap_sys_admin,cap_chown+eip data/both
        truncate -s 5G data/huge; echo end >> data/huge
        printf across | dd of=data/huge bs=1 seek=4294967293 conv=notrunc 2>/dev/null"#,
    );
    // Its directories are not in the archive.
    let tree = dir.join("implied-tree");
    std::fs::create_dir_all(tree.join("implied/a/b")).unwrap();
    std::fs::write(tree.join("implied/a/b/file"), "x").unwrap();
    let tar = dir.join("implied.tar").display().to_string();
    let tree = tree.display().to_string();
    let pack = ["--create", "--file", &tar, "--directory", &tree];
    tool("tar", &[&pack[..], &["implied/a/b/file"]].concat());
    tool("umoci", &["raw", "add-layer", "--image", &image, &tar]);
    // getfattr and what it needs to run.
    let script = "mkdir usr lib64; for f in $(command -v getfattr) \
        $(ldd $(command -v getfattr) | grep -o '/[^ ]*'); do cp --parents -L $f .; done; \
        mkdir data; cp -a usr lib* data; tar -cf ../programs.tar $(ls | grep -v data)";
    layer(dir, &image, "tools", script);
    let tools = dir.join("programs.tar").display().to_string();
    tool("umoci", &["raw", "add-layer", "--image", &image, &tools]);
    look_alike(dir, &image, FURTHER, 15);
}
