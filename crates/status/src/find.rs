//! Pods and containers by what people call them.

use std::path::PathBuf;

use crate::{Container, Located, Pod};

/// Candidates an error lists at most.
const LISTED: usize = 8;

/// Why a name fits no one pod or container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No pod is called so.
    #[error("there is no pod `{0}`; `bulkhead pods` lists them")]
    NoPod(String),
    /// No container of the pod is called so.
    #[error("the pod `{pod}` has no container `{container}`; it has {has}")]
    NoContainer {
        /// The pod.
        pod: String,
        /// What was looked for.
        container: String,
        /// Those there are.
        has: String,
    },
    /// The name leaves it open.
    #[error("`{name}` may be {candidates}; write more of it")]
    Ambiguous {
        /// The name.
        name: String,
        /// What it fits.
        candidates: String,
    },
}

/// A pod, and a container where one was named.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The pod's directory.
    pub dir: PathBuf,
    /// The pod.
    pub pod: Pod,
    /// Which of its containers was named.
    pub container: Option<Container>,
}

fn is_called(pod: &Pod, name: &str) -> bool {
    let own = pod.kubernetes.as_ref();
    own.is_some_and(|own| {
        own.name == name || own.uid == name || format!("{}/{}", own.namespace, own.name) == name
    }) || pod.id == name
}

fn fits(pod: &Pod, name: &str) -> bool {
    is_called(pod, name) || (!name.is_empty() && pod.id.starts_with(name))
}

/// A pod's name for people.
fn shown(pod: &Pod) -> String {
    match &pod.kubernetes {
        Some(own) => format!("{}/{} ({:.12})", own.namespace, own.name, pod.id),
        None => format!("{:.12}", pod.id),
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let shown = names.iter().take(LISTED).cloned().collect::<Vec<_>>();
    match names.len() {
        0 => "none".to_owned(),
        all if all > LISTED => format!("{} or {} others", shown.join(", "), all - LISTED),
        _ => shown.join(", "),
    }
}

/// Of several pods those whose name it is, whole; all of them where it is
/// nobody's.
fn exact<'a>(found: Vec<&'a Located>, name: &str) -> Vec<&'a Located> {
    let called = |own: &&&Located| is_called(&own.pod, name);
    let whole: Vec<_> = found.iter().filter(called).copied().collect();
    if whole.is_empty() { found } else { whole }
}

fn pods<'a>(all: &'a [Located], name: &str) -> Vec<&'a Located> {
    let found = all.iter().filter(|own| fits(&own.pod, name)).collect();
    exact(found, name)
}

/// The pod called `name`: by its name, `NAMESPACE/NAME`, uid, id or the
/// beginning of its id.
///
/// # Errors
/// [`FindError`].
pub fn pod<'a>(all: &'a [Located], name: &str) -> Result<&'a Located, FindError> {
    match pods(all, name).as_slice() {
        [] => Err(FindError::NoPod(name.to_owned())),
        [one] => Ok(one),
        several => Err(FindError::Ambiguous {
            name: name.to_owned(),
            candidates: list(several.iter().map(|own| shown(&own.pod))),
        }),
    }
}

/// The pod, or the container of a pod, called `name`: a pod's name as [`pod`]
/// takes it, and behind a further `/` the container's name, id, or the
/// beginning of its id.
///
/// # Errors
/// [`FindError`].
pub fn member(all: &[Located], name: &str) -> Result<Found, FindError> {
    let split = name.rsplit_once('/');
    let alone = pods(all, name);
    let of_split = split.map(|(pod, _)| pods(all, pod)).unwrap_or_default();
    match (alone.as_slice(), of_split.as_slice(), split) {
        ([], [], _) => Err(FindError::NoPod(name.to_owned())),
        ([one], [], _) => Ok(found(one, None)),
        ([], [one], Some((_, container))) => {
            let container = of_pod(&one.pod, container)?;
            Ok(found(one, Some(container)))
        }
        (alone, with, _) => Err(FindError::Ambiguous {
            name: name.to_owned(),
            candidates: list(alone.iter().chain(with).map(|own| shown(&own.pod))),
        }),
    }
}

fn found(own: &Located, container: Option<Container>) -> Found {
    Found {
        dir: own.dir.clone(),
        pod: own.pod.clone(),
        container,
    }
}

fn container_name(own: &Container) -> String {
    own.name.clone().unwrap_or_else(|| own.id.clone())
}

/// A pod's container by its name, its id, or the beginning of its id. Of several
/// of one name, as a restart leaves them, it is the one that runs.
fn of_pod(pod: &Pod, name: &str) -> Result<Container, FindError> {
    let called = |own: &&Container| own.name.as_deref() == Some(name) || own.id == name;
    let mut found: Vec<&Container> = pod.containers.iter().filter(called).collect();
    if found.is_empty() && !name.is_empty() {
        let begins = |own: &&Container| own.id.starts_with(name);
        found = pod.containers.iter().filter(begins).collect();
    }
    if found.len() > 1 {
        let runs = |own: &&Container| own.state == "running";
        let running: Vec<_> = found.iter().copied().filter(runs).collect();
        if running.len() == 1 {
            found = running;
        }
    }
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(FindError::NoContainer {
            pod: shown(pod),
            container: name.to_owned(),
            has: list(pod.containers.iter().map(container_name)),
        }),
        several => Err(FindError::Ambiguous {
            name: name.to_owned(),
            candidates: list(several.iter().map(|own| own.id.clone())),
        }),
    }
}

impl Found {
    /// The container that was named, or the only one there is, or the only one
    /// that runs.
    ///
    /// # Errors
    /// As [`Found::container`].
    pub fn any_container(&self) -> Result<Container, FindError> {
        match self.pod.containers.as_slice() {
            [one] if self.container.is_none() => Ok(one.clone()),
            _ => self.container(),
        }
    }

    /// The container that was named, or the only one that runs.
    ///
    /// # Errors
    /// [`FindError`] when several run and none was named, or none runs.
    pub fn container(&self) -> Result<Container, FindError> {
        if let Some(named) = &self.container {
            return Ok(named.clone());
        }
        let runs = |own: &&Container| own.state == "running";
        let running: Vec<_> = self.pod.containers.iter().filter(runs).collect();
        let pod = shown(&self.pod);
        match running.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(FindError::NoContainer {
                pod,
                container: "that runs".to_owned(),
                has: list(self.pod.containers.iter().map(container_name)),
            }),
            several => Err(FindError::Ambiguous {
                name: pod,
                candidates: list(several.iter().map(|own| container_name(own))),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kubernetes, State};

    fn container(id: &str, name: &str, state: &str) -> Container {
        Container {
            id: id.to_owned(),
            name: Some(name.to_owned()),
            log: None,
            state: state.to_owned(),
            exit_code: None,
            usage: None,
        }
    }

    fn located(namespace: &str, name: &str, id: &str, containers: Vec<Container>) -> Located {
        Located {
            dir: PathBuf::from(id),
            pod: Pod {
                id: id.to_owned(),
                namespace: "k8s.io".to_owned(),
                kubernetes: Some(Kubernetes {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    uid: format!("uid-{id}"),
                }),
                state: State::Running,
                reason: None,
                started: 1,
                vcpus: 1,
                memory: 1,
                overhead: 0,
                logs: None,
                shim_pid: 1,
                monitor_pid: None,
                phases: Vec::new(),
                containers,
                volumes: Vec::new(),
            },
        }
    }

    fn all() -> Vec<Located> {
        let running = |id: &str, name: &str| container(id, name, "running");
        vec![
            located("default", "web", "aa11", vec![running("c1", "app")]),
            located(
                "test",
                "web",
                "aa22",
                vec![running("c2", "app"), running("c3", "log")],
            ),
            located(
                "test",
                "db",
                "bb33",
                vec![container("c4", "db", "stopped"), running("c5", "db")],
            ),
            located("web", "app", "dd44", Vec::new()),
        ]
    }

    #[test]
    fn pods_are_found_by_each_of_their_names() {
        let all = all();
        for name in ["db", "test/db", "uid-bb33", "bb33", "bb"] {
            assert_eq!(pod(&all, name).unwrap().pod.id, "bb33", "{name}");
        }
        assert_eq!(pod(&all, "no"), Err(FindError::NoPod("no".into())));
        assert!(pod(&all, "").is_err());
        let text = pod(&all, "web").unwrap_err().to_string();
        assert!(
            text.contains("default/web (aa11)") && text.contains("test/web (aa22)"),
            "{text}"
        );
        assert!(
            pod(&all, "aa")
                .unwrap_err()
                .to_string()
                .contains("write more")
        );
    }

    #[test]
    fn containers_are_found_behind_their_pods() {
        let all = all();
        let of = |name: &str| member(&all, name).and_then(|found| found.container());
        assert_eq!(of("test/web/log").unwrap().id, "c3");
        assert_eq!(of("aa22/c3").unwrap().id, "c3");
        // The only one that runs; of two of one name, that which runs.
        assert_eq!(of("default/web").unwrap().id, "c1");
        assert_eq!(of("db/db").unwrap().id, "c5");
        assert!(
            of("test/web")
                .unwrap_err()
                .to_string()
                .contains("`app`, `log`")
        );
        let text = of("db/app").unwrap_err().to_string();
        assert!(
            text.contains("no container `app`") && text.contains("`db`"),
            "{text}"
        );
        // A pod `app` of the namespace `web`, or the container `app` of a pod `web`.
        assert!(matches!(of("web/app"), Err(FindError::Ambiguous { .. })));
    }
}
