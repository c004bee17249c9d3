//! Trees as a reference sees them: the kernel mounts the image, and what it
//! shows is compared with the directory itself.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

/// On a real file system, for the attributes.
fn temp() -> tempfile::TempDir {
    let target = env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target";
    tempfile::tempdir_in(target).unwrap()
}

fn packed(dir: &Path, image: &Path, bounds: Bounds) -> Result<(), Error> {
    let opened = rustix::fs::open(dir, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .unwrap();
    pack(&opened, file, bounds).map(drop)
}

fn run(script: &str, args: &[&Path]) -> String {
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh"])
        .args(args)
        .output()
        .expect("unshare is there: `apt install util-linux`");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tree with one of everything a layer can hold.
fn everything(dir: &Path) {
    std::fs::create_dir_all(dir.join("usr/lib")).unwrap();
    std::fs::write(dir.join("usr/small"), "small").unwrap();
    std::fs::write(dir.join("usr/lib/large"), vec![7; 300_000]).unwrap();
    std::fs::hard_link(dir.join("usr/small"), dir.join("usr/lib/second name")).unwrap();
    symlink("../small", dir.join("usr/lib/link")).unwrap();
    symlink("/nowhere/at/all", dir.join("dangling")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 8 << 20).unwrap();
    std::fs::set_permissions(dir.join("usr/small"), PermissionsExt::from_mode(0o4755)).unwrap();
    let script = r#"
        cd "$1"; mkfifo fifo; mknod null c 1 3; mknod disk b 8 1; mknod gone c 0 0
        chown 1000:50 usr/lib/large; touch -d '1969-07-20 20:17' usr
        setfattr -n user.note -v kept usr/small
        setfattr -n trusted.overlay.opaque -v y usr/lib
        setfattr -n trusted.overlay.origin -v 0x00fb usr/lib
        setcap cap_net_raw+ep usr/lib/large
    "#;
    run(script, &[dir]);
}

#[test]
fn an_image_shows_what_the_directory_holds() {
    let temp = temp();
    let (dir, image) = (temp.path().join("fs"), temp.path().join("image"));
    everything(&dir);
    packed(&dir, &image, Bounds::default()).unwrap();
    let seen = r#"
        look() { find . -printf '%P %y %m %U %G %n %s %l %T@\n' | sort
                 find . -type f -exec sha256sum {} + | sort
                 find . \( -type c -o -type b \) -exec stat -c '%n %t %T' {} + | sort
                 find . | sort | tr '\n' '\0' | xargs -0 getfattr -h -d -m - 2>/dev/null | grep -v trusted.overlay.origin; }
        mkdir "$3"; mount -t erofs -o loop,ro "$2" "$3"
        cd "$3"; look; echo ======; cd "$1"; look
    "#;
    let both = run(seen, &[&dir, &image, &temp.path().join("mount")]);
    let (ours, theirs) = both.split_once("======\n").unwrap();
    // Directories have the sizes their file systems give them.
    let plain = |text: &str| -> String {
        let words = text.lines().map(|line| {
            let mut words: Vec<&str> = line.split(' ').collect();
            let is_dir = words.contains(&"d");
            if is_dir && words.len() >= 6 {
                let size = words.len() - 3;
                words.remove(size);
            }
            words.join(" ") + "\n"
        });
        words.collect()
    };
    assert_eq!(plain(ours), plain(theirs));
    assert!(ours.contains("user.note=\"kept\"") && ours.contains("security.capability"));
    assert!(std::fs::metadata(&image).unwrap().len() < 8 << 20);
}

#[test]
fn what_has_its_content_in_another_layer_is_refused() {
    for attribute in ["redirect", "metacopy"] {
        let temp = temp();
        let (dir, image) = (temp.path().join("fs"), temp.path().join("image"));
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let set = format!("setfattr -n trusted.overlay.{attribute} -v /x \"$1\"/sub");
        run(&set, &[&dir]);
        let error = packed(&dir, &image, Bounds::default()).unwrap_err();
        assert!(error.is_final(), "{error}");
        assert!(error.to_string().contains(attribute), "{error}");
    }
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let temp = temp();
    let dir = temp.path().join("fs");
    everything(&dir);
    let whole = Bounds::default();
    let bounds = [
        Bounds {
            bytes: 1000,
            ..whole
        },
        Bounds { depth: 1, ..whole },
        Bounds { inodes: 3, ..whole },
        Bounds {
            metadata: 10,
            ..whole
        },
    ];
    for (number, bounds) in bounds.into_iter().enumerate() {
        let image = temp.path().join(number.to_string());
        let error = packed(&dir, &image, bounds).unwrap_err();
        assert!(error.is_final(), "{error}");
    }
}

#[test]
fn no_link_leads_out_of_a_layer() {
    let temp = temp();
    let (dir, image) = (temp.path().join("fs"), temp.path().join("image"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::create_dir(temp.path().join("secret")).unwrap();
    std::fs::write(temp.path().join("secret/key"), "do not copy this").unwrap();
    symlink("../secret", dir.join("etc")).unwrap();
    symlink("../secret/key", dir.join("key")).unwrap();
    packed(&dir, &image, Bounds::default()).unwrap();
    let bytes = std::fs::read(&image).unwrap();
    assert!(!bytes.windows(11).any(|part| part == b"do not copy"));
}
