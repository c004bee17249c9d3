//! Guides, as far as programs can follow them.

use std::path::Path;

/// The commands of `docs/guides/NAME.md`: the lines between fences of shell, without
/// what is said beside them.
#[must_use]
pub fn guide(name: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides");
    let guide = std::fs::read_to_string(dir.join(name).with_extension("md")).unwrap();
    let blocks = guide.split("```sh\n").skip(1);
    let texts = blocks.filter_map(|block| block.split("```").next());
    let lines = texts.flat_map(str::lines).map(|line| {
        let command = line.split("  #").next().unwrap_or_default();
        command.trim().to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect()
}
