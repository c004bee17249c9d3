//! Programs of the host that a container's maker wants run beside its life.
//! OCI runtime spec, config.md, "POSIX-platform Hooks".

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{Hook as Told, Spec};

use crate::Refusal;

/// Programs for one moment at most.
const LIMIT: usize = 64;

/// How long one may take that says nothing itself. runc waits for ever; nobody wants a
/// container that is never made.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With its own name first; empty: the path alone.
    pub args: Vec<String>,
    /// `KEY=value`; all it gets.
    pub env: Vec<String>,
    /// How long it may take.
    pub patience: Duration,
}

/// Those of a container, by moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// While it is made, its network namespace being there: `prestart` and
    /// `createRuntime`. A failure is one of the creation.
    pub create: Vec<Hook>,
    /// When it runs: `poststart`.
    pub started: Vec<Hook>,
    /// When it is gone: `poststop`.
    pub stopped: Vec<Hook>,
}

/// Those of a container that is alone in its machine. They are taken out of the spec.
///
/// # Errors
/// Those that would run inside of the container, which is another kernel's; those that
/// are none.
pub fn take_hooks(spec: &mut Spec) -> Result<Hooks, Refusal> {
    let Some(told) = spec.hooks().clone() else {
        return Ok(Hooks::default());
    };
    let inside = [told.create_container(), told.start_container()];
    if inside.into_iter().flatten().any(|list| !list.is_empty()) {
        return Err(Refusal::new(
            "the spec asks for OCI hooks `createContainer` or `startContainer`, which run in a \
             container's namespaces on its host; a container with a kernel of its own has none there",
        ));
    }
    // Deprecated, and what docker sets a container's network up by.
    let early = told.prestart();
    let mut create = read(early.as_deref())?;
    create.extend(read(told.create_runtime().as_deref())?);
    let hooks = Hooks {
        create,
        started: read(told.poststart().as_deref())?,
        stopped: read(told.poststop().as_deref())?,
    };
    spec.set_hooks(None);
    Ok(hooks)
}

fn read(list: Option<&[Told]>) -> Result<Vec<Hook>, Refusal> {
    let list = list.unwrap_or(&[]);
    if list.len() > LIMIT {
        return Err(Refusal::new(format!("more than {LIMIT} OCI hooks")));
    }
    list.iter().map(hook).collect()
}

fn hook(told: &Told) -> Result<Hook, Refusal> {
    if !told.path().is_absolute() {
        return Err(Refusal::new(format!(
            "the OCI hook `{}` has to be an absolute path",
            told.path().display()
        )));
    }
    let patience = match told.timeout() {
        None => PATIENCE,
        Some(seconds) => u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)
            .ok_or_else(|| Refusal::new("the timeout of an OCI hook has to be above 0"))?,
    };
    Ok(Hook {
        path: told.path().clone(),
        args: told.args().clone().unwrap_or_default(),
        env: told.env().clone().unwrap_or_default(),
        patience,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(hooks: &Value) -> Spec {
        let spec = json!({"ociVersion": "1.0.2", "hooks": hooks});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn hooks_of_the_host_are_kept_by_moment_and_others_refused() {
        let mut whole = spec(&json!({
            "prestart": [{"path": "/a", "args": ["a", "b"], "timeout": 5}],
            "createRuntime": [{"path": "/c"}],
            "poststop": [{"path": "/d", "env": ["X=1"]}],
        }));
        let hooks = take_hooks(&mut whole).unwrap();
        let paths: Vec<_> = hooks.create.iter().map(|own| own.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/a"), PathBuf::from("/c")]);
        assert_eq!(hooks.create[0].patience, Duration::from_secs(5));
        assert_eq!(hooks.stopped[0].env, ["X=1"]);
        assert!(whole.hooks().is_none());
        for bad in [
            json!({"createContainer": [{"path": "/a"}]}),
            json!({"startContainer": [{"path": "/a"}]}),
            json!({"poststart": [{"path": "a"}]}),
            json!({"poststart": [{"path": "/a", "timeout": 0}]}),
            json!({"poststart": [{"path": "/a", "timeout": -1}]}),
        ] {
            assert!(take_hooks(&mut spec(&bad)).is_err(), "{bad}");
        }
    }
}
