//! A layer of an image that is otherwise fine: the bytes are its tar.
#![no_main]

use bulkhead_guest::Sha256;
use bulkhead_image::{ImageRef, PullOptions, Store};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = pull(bytes);
});

/// A docker archive's parts, in a layout's form.
fn pull(layer: &[u8]) -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let blobs = dir.path().join("image/blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let place = |bytes: &[u8]| -> std::io::Result<String> {
        let digest = Sha256::of(bytes).to_string();
        let hex = digest.trim_start_matches("sha256:").to_owned();
        std::fs::write(blobs.join(&hex), bytes)?;
        Ok(format!(
            "\"digest\":\"sha256:{hex}\",\"size\":{}",
            bytes.len()
        ))
    };
    let body = place(layer)?;
    let hex = body.split('"').nth(3).unwrap_or_default();
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\
         \"diff_ids\":[\"{hex}\"]}}}}"
    );
    let kind = "application/vnd.oci.image";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"{kind}.config.v1+json\",{}}},\
         \"layers\":[{{\"mediaType\":\"{kind}.layer.v1.tar\",{body}}}]}}",
        place(config.as_bytes())?
    );
    let index = format!(
        "{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"{kind}.manifest.v1+json\",{}}}]}}",
        place(manifest.as_bytes())?
    );
    std::fs::write(dir.path().join("image/index.json"), index)?;
    let store = Store::open(&dir.path().join("store")).map_err(std::io::Error::other)?;
    let path = dir.path().join("image");
    let image = ImageRef::Layout { path, tag: None };
    let options = PullOptions::default();
    match store.pull(&image, options, &mut ()) {
        Ok(image) => {
            let files = store.open_layers(&image).map_err(std::io::Error::other)?;
            assert_eq!(files.len(), 1);
        }
        // The wrapping is never what is wrong.
        Err(error) => assert!(
            !matches!(
                error,
                bulkhead_image::Error::Document { .. } | bulkhead_image::Error::Blob { .. }
            ),
            "{error}"
        ),
    }
    Ok(())
}
