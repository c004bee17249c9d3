use std::os::unix::fs::symlink;

use super::*;

const OWN: fn() -> Meta = || Meta {
    mode: 0o640,
    uid: rustix::process::geteuid().as_raw(),
    gid: rustix::process::getegid().as_raw(),
};

fn tree() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path()).unwrap();
    (dir, tree)
}

#[test]
fn a_written_file_is_read_back_with_its_permissions() {
    let (dir, tree) = tree();
    let path = Path::new("/etc/x/config");
    assert_eq!(tree.read(path, 10).unwrap(), None);
    let made = tree.make_dirs(Path::new("/etc/x")).unwrap();
    assert_eq!(made, [Path::new("/etc"), Path::new("/etc/x")]);
    tree.write(path, b"one", OWN()).unwrap();
    tree.write(path, b"two", OWN()).unwrap();
    let content = tree.read(path, 10).unwrap().unwrap();
    assert_eq!(
        (content.bytes.as_slice(), content.meta),
        (&b"two"[..], OWN())
    );
    assert_eq!(tree.list(Path::new("/etc/x")).unwrap().unwrap(), ["config"]);
    assert!(tree.read(path, 2).is_err());
    assert!(dir.path().join("etc/x/config").exists());
}

#[test]
fn links_never_lead_out_of_the_root() {
    let (dir, tree) = tree();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), dir.path().join("etc")).unwrap();
    symlink("../../../../../..", dir.path().join("up")).unwrap();
    assert_eq!(tree.read(Path::new("/etc/secret"), 10).unwrap(), None);
    // `up` is the root itself, as `/..` is.
    tree.write(Path::new("/up/here"), b"x", OWN()).unwrap();
    assert!(dir.path().join("here").exists());
    assert!(tree.write(Path::new("/etc/secret"), b"x", OWN()).is_err());
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
}

#[test]
fn the_last_part_is_never_followed() {
    let (dir, tree) = tree();
    std::fs::write(dir.path().join("real"), "real").unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    assert!(tree.read(Path::new("/link"), 10).is_err());
    tree.remove_tree(Path::new("/link")).unwrap();
    assert!(dir.path().join("real").exists());
}

#[test]
fn removal_of_a_tree_does_not_follow_links_either() {
    let (dir, tree) = tree();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("kept"), "").unwrap();
    std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    symlink(outside.path(), dir.path().join("a/b/out")).unwrap();
    tree.remove_tree(Path::new("/a")).unwrap();
    assert!(!dir.path().join("a").exists() && outside.path().join("kept").exists());
    tree.remove_tree(Path::new("/a")).unwrap();
}

#[test]
fn a_link_is_switched_in_one_step() {
    let (_dir, tree) = tree();
    let path = Path::new("/current");
    assert_eq!(tree.link(path).unwrap(), None);
    for target in ["versions/1", "versions/2"] {
        tree.set_link(path, Path::new(target)).unwrap();
        assert_eq!(tree.link(path).unwrap().unwrap(), Path::new(target));
    }
    assert_eq!(tree.list(Path::new("/")).unwrap().unwrap(), ["current"]);
}
