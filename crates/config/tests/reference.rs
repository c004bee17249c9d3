//! The reference of the configuration is written from its description.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::path::Path;

use bulkhead_config::{Config, PREFIX, SETTINGS};

const HEAD: &str = "\
# Configuration of pods
The file is `/etc/bulkhead/config.toml`, or what `ConfigPath` names in the options of containerd's
runtime handler. Files `*.toml` in the directory of the same name that ends in `.d` follow in the
order of their names; each setting replaces earlier ones. `bulkhead config check` says whether all
of it is right, `bulkhead config explain` what holds and which file says so. A pod is started with
what holds at that moment; running ones keep theirs.

";

fn reference() -> String {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut text = HEAD.to_owned();
    text.push_str("| setting | default | may be | what it is |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = defaults.get(setting.name).map(ToString::to_string);
        let default = default.map_or("unset".to_owned(), |value| format!("`{value}`"));
        let (name, range, what) = (setting.name, setting.range, setting.what);
        writeln!(text, "| `{name}` | {default} | {range} | {what} |").unwrap();
    }
    writeln!(
        text,
        "\nAn annotation `{PREFIX}NAME` of a pod sets a setting that `annotations` lists; any other \
         `{PREFIX}` annotation\nis refused. containerd hands annotations to the runtime only if the \
         handler's `pod_annotations`\nhas `\"{PREFIX}*\"`."
    )
    .unwrap();
    text
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/config.md");
    let expected = reference();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "BLESS=1 writes it anew");
}
