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

/// How containerd says of what a container is a part.
const TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// What a bundle says, as far as it concerns the host.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The whole spec, for the shim.
    pub(super) spec: Value,
    pub(super) dir: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) terminal: bool,
    pub(super) joined: Option<Joined>,
    /// As the caller wrote them.
    pub(super) annotations: BTreeMap<String, String>,
}

/// Reads a file of JSON that is not too large; `-` is standard input.
pub(super) fn read_json(path: &Path) -> Result<Value, Error> {
    let mut bytes = Vec::new();
    let opened: std::io::Result<Box<dyn Read>> = match path == Path::new("-") {
        true => Ok(Box::new(std::io::stdin())),
        false => std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>),
    };
    opened
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
        let joined = joined(&spec)?;
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
            joined,
            annotations,
        })
    }

    /// Makes it a container of another's machine. `processes` is the process the shim
    /// has told of the one whose processes it shares.
    pub(super) fn in_machine(&mut self, of: &str, processes: Option<u32>) {
        let annotations = self.spec["annotations"].as_object();
        let mut annotations = annotations.cloned().unwrap_or_default();
        annotations.insert(TYPE.to_owned(), "container".into());
        annotations.insert(SANDBOX.to_owned(), of.into());
        self.spec["annotations"] = annotations.into();
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut();
        for own in namespaces.into_iter().flatten() {
            match (own["type"].as_str(), processes) {
                (Some("pid"), Some(pid)) => own["path"] = format!("/proc/{pid}/ns/pid").into(),
                (Some("ipc" | "uts"), _) => {
                    own.as_object_mut().map(|own| own.remove("path"));
                }
                _ => {}
            }
        }
    }
}

fn annotations(spec: &Value) -> BTreeMap<String, String> {
    let all = spec["annotations"].as_object().into_iter().flatten();
    all.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
        .collect()
}

/// Another container's namespaces a container is to be in, by the processes that stand
/// for their containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) network: u32,
    /// Of all that are named.
    pub(super) all: Vec<u32>,
    /// Whose processes it is among.
    pub(super) processes: Option<u32>,
}

/// The namespace of a kind that a spec asks for.
pub(super) fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a Value> {
    let all = spec["linux"]["namespaces"].as_array()?;
    all.iter().find(|own| own["type"] == kind)
}

/// Where a namespace is; one without a path is new.
pub(super) fn path(namespace: &Value) -> Option<&str> {
    namespace["path"].as_str().filter(|path| !path.is_empty())
}

/// The process whose namespace a path is. proc_pid_ns(5).
fn process(path: &str) -> Option<u32> {
    let (pid, rest) = path.strip_prefix("/proc/")?.split_once('/')?;
    rest.strip_prefix("ns/")?;
    pid.parse().ok()
}

/// Whose namespaces are joined. The host's own are refused, and those that cannot be
/// had from another machine.
fn joined(spec: &Value) -> Result<Option<Joined>, Error> {
    let mut joined = Joined::default();
    for kind in ["network", "pid", "ipc", "uts"] {
        let Some(own) = namespace(spec, kind) else {
            // Its name is its own kernel's anyway.
            if kind == "uts" {
                continue;
            }
            return Err(Error::Refused(format!(
                "the host's own {kind} namespace cannot be had: the container has a kernel of its \
                 own; leave `--{kind}=host` out, or choose another runtime"
            )));
        };
        let path = path(own).unwrap_or_default();
        match process(path) {
            Some(pid) => {
                joined.all.push(pid);
                match kind {
                    "network" => joined.network = pid,
                    "pid" => joined.processes = Some(pid),
                    _ => {}
                }
            }
            None if path.is_empty() || kind == "network" => {}
            None => {
                return Err(Error::Refused(format!(
                    "the {kind} namespace `{path}` cannot be joined: the container has a kernel of \
                     its own; leave `--{kind}=ns:` out, or choose another runtime"
                )));
            }
        }
    }
    match (joined.all.is_empty(), joined.network) {
        (true, _) => Ok(None),
        (false, 0) => Err(Error::Refused(
            "namespaces of another container are its machine's, which has one network: say \
             `--network=container:` as well, or leave the others out"
                .to_owned(),
        )),
        (false, _) => Ok(Some(joined)),
    }
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
    fn namespaces_of_the_host_are_refused_by_their_option() {
        let host = json!([{"type": "pid"}, {"type": "ipc"}]);
        let error = Bundle::of("/b".into(), spec(&host)).unwrap_err();
        assert!(error.to_string().contains("--network=host"), "{error}");
        let other = json!([
            {"type": "pid"}, {"type": "ipc", "path": "/run/ipc"}, {"type": "network"},
        ]);
        let error = Bundle::of("/b".into(), spec(&other)).unwrap_err();
        assert!(error.to_string().contains("--ipc=ns:"), "{error}");
    }

    #[test]
    fn namespaces_of_another_container_are_its_machine() {
        let only = json!([
            {"type": "pid", "path": "/proc/7/ns/pid"}, {"type": "ipc"}, {"type": "network"},
        ]);
        let error = Bundle::of("/b".into(), spec(&only)).unwrap_err();
        assert!(
            error.to_string().contains("--network=container:"),
            "{error}"
        );
        let both = json!([
            {"type": "pid", "path": "/proc/7/ns/pid"}, {"type": "ipc", "path": "/proc/8/ns/ipc"},
            {"type": "network", "path": "/proc/8/ns/net"},
        ]);
        let mut bundle = Bundle::of("/b".into(), spec(&both)).unwrap();
        let joined = bundle.joined.clone().unwrap();
        assert_eq!((joined.network, joined.processes), (8, Some(7)));
        bundle.in_machine("first", Some(9));
        let said = bundle.spec.to_string();
        assert!(
            said.contains("/proc/9/ns/pid") && !said.contains("/proc/8/ns/ipc"),
            "{said}"
        );
        assert_eq!(bundle.spec["annotations"][SANDBOX], "first");
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
