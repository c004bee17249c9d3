//! An archive from anywhere, pulled into a store.
#![no_main]

use bulkhead_image::{ImageRef, LayerLimits, PullOptions, Store};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("archive");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let Ok(store) = Store::open(&dir.path().join("store")) else {
        return;
    };
    let options = PullOptions {
        limits: LayerLimits::default(),
        insecure: false,
    };
    for tag in [None, Some("x".to_owned())] {
        let path = path.clone();
        let docker = ImageRef::DockerArchive {
            path: path.clone(),
            tag: tag.clone(),
        };
        let _ = store.pull(&docker, options, &mut ());
        let _ = store.pull(&ImageRef::OciArchive { path, tag }, options, &mut ());
    }
});
