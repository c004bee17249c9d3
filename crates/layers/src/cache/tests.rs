use std::os::unix::fs::PermissionsExt;

use super::*;

/// Whatever room this machine has.
const BOUNDS: Bounds = Bounds {
    bytes: 1 << 30,
    depth: 10,
    inodes: 1000,
    metadata: 1 << 20,
    reserve: 0,
};

struct Fixture {
    temp: tempfile::TempDir,
    cache: Cache,
}

impl Fixture {
    /// Not on a tmpfs: some kernels keep no attributes of users there.
    fn new() -> Self {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target");
        let temp = temp.unwrap();
        let cache = Cache::open(&temp.path().join("images")).unwrap();
        Self { temp, cache }
    }

    fn layer(&self, name: &str, content: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), content).unwrap();
        path
    }

    fn find(&self, layer: &Path) -> Found {
        let identity = Identity::of(File::open(layer).unwrap()).unwrap();
        self.cache.find(&identity)
    }

    fn count(&self) -> usize {
        std::fs::read_dir(&self.cache.path).unwrap().count()
    }
}

#[test]
fn a_layer_has_an_image_once_it_is_made() {
    let fixture = Fixture::new();
    let layer = fixture.layer("layer", "content");
    assert!(matches!(fixture.find(&layer), Found::Nothing));
    let make = || fixture.cache.make(&layer, BOUNDS).unwrap();
    assert_eq!(make(), Made::New);
    assert_eq!(make(), Made::Known);
    assert!(matches!(fixture.find(&layer), Found::Image(_)));
}

#[test]
fn what_cannot_be_an_image_is_remembered() {
    let fixture = Fixture::new();
    let layer = fixture.layer("layer", "more than that");
    let bounds = Bounds { bytes: 8, ..BOUNDS };
    let error = fixture.cache.make(&layer, bounds).unwrap_err();
    assert!(matches!(error, Error::Bytes(8)), "{error}");
    assert!(matches!(fixture.find(&layer), Found::Unfit));
    assert_eq!(fixture.cache.make(&layer, BOUNDS).unwrap(), Made::Known);
}

#[test]
fn a_directory_that_is_missing_leaves_nothing() {
    let fixture = Fixture::new();
    let gone = fixture.temp.path().join("gone");
    let error = fixture.cache.make(&gone, BOUNDS).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
    assert_eq!(fixture.count(), 0);
}

#[test]
fn images_go_with_their_layers_and_then_by_age() {
    let fixture = Fixture::new();
    let layers = ["old", "young", "gone"].map(|name| fixture.layer(name, name));
    for layer in &layers {
        fixture.cache.make(layer, BOUNDS).unwrap();
        assert!(matches!(fixture.find(layer), Found::Image(_)));
    }
    fixture.cache.prune(u64::MAX).unwrap();
    assert_eq!(fixture.count(), 3);
    std::fs::remove_dir_all(&layers[2]).unwrap();
    fixture.cache.prune(u64::MAX).unwrap();
    assert_eq!(fixture.count(), 2);
    // The older one is used once more.
    assert!(matches!(fixture.find(&layers[0]), Found::Image(_)));
    let bytes: u64 = fixture
        .cache
        .list()
        .unwrap()
        .iter()
        .map(|kept| kept.bytes)
        .sum();
    fixture.cache.prune(bytes - 1).unwrap();
    assert!(matches!(fixture.find(&layers[0]), Found::Image(_)));
    assert!(matches!(fixture.find(&layers[1]), Found::Nothing));
    fixture.cache.prune(0).unwrap();
    assert_eq!(fixture.count(), 0);
}

#[test]
fn a_directory_others_can_write_in_is_not_trusted() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let text = Cache::open(temp.path()).unwrap_err().to_string();
    assert!(text.contains(&temp.path().display().to_string()), "{text}");
}

#[test]
fn nothing_is_made_where_room_is_short() {
    let fixture = Fixture::new();
    let layer = fixture.layer("layer", "content");
    let bounds = Bounds {
        reserve: 100,
        ..BOUNDS
    };
    let error = fixture.cache.make(&layer, bounds).unwrap_err();
    assert!(matches!(error, Error::Full(100)), "{error}");
    assert!(matches!(fixture.find(&layer), Found::Nothing));
}
