//! What is made of the manifests in `deploy/`.

use crate::run::{self, Outcome};

/// Writes the chart, the bundle and the list of images.
pub(crate) fn run() -> Outcome {
    let deploy = run::workspace().join("deploy");
    bulkhead_packaging::write(&deploy).map_err(|error| {
        let source = std::error::Error::source(&error);
        let cause = source.map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    })
}
