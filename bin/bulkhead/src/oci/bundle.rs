//! A bundle of the caller's, and what the shim is told instead.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_protocol::SPEC_LIMIT;
use serde_json::Value;

use super::Error;

/// Annotations by which container managers tell pods from containers. Here it is the
/// caller who makes containers, each on its own, and an image or a user who writes
/// annotations.
const MANAGERS: &str = "io.kubernetes.cri";

/// What a bundle says, as far as it concerns the host.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The whole spec, for the shim.
    pub(super) spec: Value,
    pub(super) dir: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) terminal: bool,
    /// As the caller wrote them.
    pub(super) annotations: BTreeMap<String, String>,
}

/// Reads a file of JSON that is not too large.
pub(super) fn read_json(path: &Path) -> Result<Value, Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SPEC_LIMIT as u64 + 1).read_to_end(&mut bytes))
        .map_err(Error::io("read", path))?;
    if bytes.len() > SPEC_LIMIT {
        return Err(Error::Refused(format!(
            "`{}` has more than {SPEC_LIMIT} bytes",
            path.display()
        )));
    }
    serde_json::from_slice(&bytes).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })
}

impl Bundle {
    /// Reads a bundle.
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let dir = std::fs::canonicalize(dir).map_err(Error::io("find", dir))?;
        let spec = read_json(&dir.join("config.json"))?;
        Self::of(dir, spec)
    }

    fn of(dir: PathBuf, mut spec: Value) -> Result<Self, Error> {
        refuse_host(&spec)?;
        let root = spec["root"]["path"].as_str().unwrap_or("rootfs");
        let rootfs = dir.join(root);
        let terminal = spec["process"]["terminal"] == true;
        let annotations = annotations(&spec);
        // The shim reads its copy of the spec elsewhere.
        if let Some(root) = spec.get_mut("root").and_then(Value::as_object_mut) {
            let path = rootfs
                .to_str()
                .ok_or_else(|| Error::Refused(format!("`{}` is no UTF-8", rootfs.display())))?;
            root.insert("path".to_owned(), path.into());
        }
        if let Some(all) = spec.get_mut("annotations").and_then(Value::as_object_mut) {
            all.retain(|name, _| !name.starts_with(MANAGERS));
        }
        Ok(Self {
            spec,
            dir,
            rootfs,
            terminal,
            annotations,
        })
    }
}

fn annotations(spec: &Value) -> BTreeMap<String, String> {
    let all = spec["annotations"].as_object().into_iter().flatten();
    all.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
        .collect()
}

/// Refuses what would need the host's own namespaces, or another container's.
fn refuse_host(spec: &Value) -> Result<(), Error> {
    let all = spec["linux"]["namespaces"].as_array();
    let all = all.map_or(&[] as &[Value], Vec::as_slice);
    for (kind, option) in [("network", "network"), ("pid", "pid"), ("ipc", "ipc")] {
        let own = all.iter().find(|own| own["type"] == kind).ok_or_else(|| {
            Error::Refused(format!(
                "the host's own {kind} namespace cannot be had: the container has a kernel of its \
                 own; leave `--{option}=host` out, or choose another runtime"
            ))
        })?;
        let path = own["path"].as_str().unwrap_or_default();
        let of_process = path.starts_with("/proc/");
        if !path.is_empty() && (kind != "network" || of_process) {
            return Err(Error::Refused(format!(
                "the {kind} namespace `{path}` of another container cannot be joined: each has a \
                 kernel of its own; leave `--{option}=container:` and pods out, or choose another \
                 runtime"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spec(namespaces: &Value) -> Value {
        json!({
            "root": {"path": "rootfs"},
            "process": {"terminal": true},
            "annotations": {
                "io.kubernetes.cri-o.ContainerType": "container",
                "io.kubernetes.cri.sandbox-id": "victim",
                "io.container.manager": "libpod",
            },
            "linux": {"namespaces": namespaces, "cgroupsPath": "/libpod_parent/a"},
        })
    }

    #[test]
    fn nobody_says_by_annotation_whose_pod_a_container_is_of() {
        let own = json!([
            {"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "/run/netns/x"},
        ]);
        let bundle = Bundle::of("/b".into(), spec(&own)).unwrap();
        assert_eq!(bundle.spec["annotations"].as_object().unwrap().len(), 1);
        assert_eq!(bundle.annotations.len(), 3);
        assert_eq!(bundle.spec["root"]["path"], "/b/rootfs");
        assert!(bundle.terminal);
    }

    #[test]
    fn namespaces_of_the_host_and_of_others_are_refused_by_their_option() {
        let host = json!([{"type": "pid"}, {"type": "ipc"}]);
        let error = Bundle::of("/b".into(), spec(&host)).unwrap_err();
        assert!(error.to_string().contains("--network=host"), "{error}");
        for kind in ["network", "pid", "ipc"] {
            let mut all = vec![json!({"type": kind, "path": format!("/proc/7/ns/{kind}")})];
            for other in ["network", "pid", "ipc"] {
                if other != kind {
                    all.push(json!({"type": other}));
                }
            }
            let error = Bundle::of("/b".into(), spec(&all.into())).unwrap_err();
            assert!(error.to_string().contains("container:"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_spec_panics(text in "\\PC{0,64}", pick in 0_usize..4) {
            let own = match pick {
                0 => json!(text),
                1 => json!([text]),
                2 => json!([{"type": text, "path": text}]),
                _ => Value::Null,
            };
            let _ = Bundle::of("/b".into(), spec(&own));
            let _ = Bundle::of("/b".into(), json!({"annotations": text, "root": text}));
        }
    }
}
