//! Images as the kernel and erofs-utils see them.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use bulkhead_erofs::{Attributes, Content, Device, Extent, Limits, Timestamp, Writer};

fn attributes(mode: u16) -> Attributes {
    let mtime = Timestamp {
        seconds: 1_000_000_007,
        nanoseconds: 5,
    };
    Attributes {
        mode,
        uid: 70_000,
        gid: 7,
        mtime,
        ..Attributes::default()
    }
}

/// An image with one of everything.
fn image(path: &std::path::Path) -> u64 {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = Writer::new(file, Limits::default()).unwrap();
    let root = writer.root();
    let dir = writer
        .add(root, b"dir", attributes(0o1777), Content::Directory)
        .unwrap();
    for number in 0..700 {
        let name = format!("{number:04}-{}", "n".repeat(number % 240));
        let data = writer.write_file(&mut &b"small"[..], 5).unwrap();
        writer
            .add(dir, name.as_bytes(), attributes(0o644), Content::File(data))
            .unwrap();
    }
    let big = vec![0xA5; 1_000_000];
    let data = writer.write_file(&mut &big[..], big.len() as u64).unwrap();
    let mut special = attributes(0o4755);
    special
        .xattrs
        .insert(b"user.note"[..].into(), b"value"[..].into());
    let node = writer
        .add(root, b"big", special, Content::File(data))
        .unwrap();
    writer.link(dir, b"link", node).unwrap();
    let extents = [Extent {
        offset: 5 << 30,
        len: 4,
    }];
    let data = writer
        .write_sparse(&mut &b"tail"[..], (5 << 30) + 4, &extents)
        .unwrap();
    writer
        .add(root, b"sparse", attributes(0o600), Content::File(data))
        .unwrap();
    writer
        .add(
            root,
            b"short",
            attributes(0o777),
            Content::Symlink(b"dir"[..].into()),
        )
        .unwrap();
    let long = vec![b'x'; 3000];
    writer
        .add(
            root,
            b"long",
            attributes(0o777),
            Content::Symlink(long.into()),
        )
        .unwrap();
    writer
        .add(
            root,
            b"gone",
            attributes(0o600),
            Content::CharDevice(Device::WHITEOUT),
        )
        .unwrap();
    writer
        .add(
            root,
            b"disk",
            attributes(0o600),
            Content::BlockDevice(Device {
                major: 254,
                minor: 300,
            }),
        )
        .unwrap();
    writer
        .add(root, b"pipe", attributes(0o600), Content::Fifo)
        .unwrap();
    writer
        .add(root, &[b'N'; 255], attributes(0o600), Content::Socket)
        .unwrap();
    writer.finish().unwrap().1.size
}

#[test]
fn fsck_finds_nothing_wrong() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image");
    image(&path);
    let output = Command::new("fsck.erofs")
        .arg(&path)
        .output()
        .expect("fsck.erofs runs: `apt install erofs-utils`");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_same_calls_give_the_same_bytes_and_holes_take_no_room() {
    let temp = tempfile::tempdir().unwrap();
    let (one, two) = (temp.path().join("1"), temp.path().join("2"));
    assert!(image(&one) < 8 << 20);
    image(&two);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());
}

#[test]
fn the_kernel_sees_what_was_written() {
    let temp = tempfile::tempdir().unwrap();
    let (path, mount) = (temp.path().join("image"), temp.path().join("mount"));
    image(&path);
    std::fs::create_dir(&mount).unwrap();
    // In a mount namespace of its own, so that nothing is left mounted.
    let script = r#"mount -t erofs -o loop,ro "$1" "$2" && cd "$2" &&
        stat -c '%n %F %a %u %g %s %h %t,%T %Y' big short gone disk pipe dir sparse &&
        readlink long | wc -c && ls dir | wc -l && tail -c 4 sparse && echo &&
        sha256sum < big && stat -c %i big dir/link && cat dir/0239-* && echo"#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([&path, &mount])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "this test needs root and loop devices: {output:?}"
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "big regular file 4755 70000 7 1000000 2 0,0 1000000007"
    );
    assert_eq!(
        lines[1],
        "short symbolic link 777 70000 7 3 1 0,0 1000000007"
    );
    assert!(lines[2].starts_with("gone character special file 600 70000 7 0 1 0,0"));
    assert!(lines[3].contains("fe,12c"), "{}", lines[3]);
    assert!(lines[4].starts_with("pipe fifo"));
    assert!(lines[5].starts_with("dir directory 1777"));
    assert!(lines[6].contains(" 5368709124 1 "), "{}", lines[6]);
    // readlink ends its line.
    assert_eq!(&lines[7..10], ["3001", "701", "tail"]);
    assert_eq!(lines[11], lines[12]);
    assert_eq!(lines[13], "small");
    assert!(
        !std::fs::metadata(&path)
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 8 << 20);
}
