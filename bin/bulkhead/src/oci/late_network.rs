//! Networks that come too late. Docker from its version 28 on makes a container's when it
//! was created; before, a hook did, while there was no machine yet. A machine takes no
//! network any more, so that the container would be without one and not know.

use serde_json::Value;

use super::bundle::{namespace, path, read_json};
use super::{Error, Place};

/// Refuses a container whose own network namespace, empty when it was created, has a
/// network now.
pub(super) fn refuse(place: &Place) -> Result<(), Error> {
    let record = place.record()?;
    let spec = read_json(&place.bundle().join("config.json"))?;
    // One in another's machine has that one's network.
    let own = record.machine == place.id() && is_empty_at_first(&spec);
    match own && has_network(record.pid) {
        false => Ok(()),
        true => Err(Error::Refused(format!(
            "the network of `{}` was made after its machine, which cannot join it any more (docker \
             does so from its version 28 on): run it with --network none, or by Podman or containerd",
            place.id()
        ))),
    }
}

/// A namespace without a path is a new one, and only hooks fill it before the machine.
fn is_empty_at_first(spec: &Value) -> bool {
    let new = namespace(spec, "network").is_some_and(|own| path(own).is_none());
    let hooked = ["prestart", "createRuntime"].iter().any(|kind| {
        let hooks = spec["hooks"][kind].as_array();
        hooks.is_some_and(|hooks| !hooks.is_empty())
    });
    new && !hooked
}

/// Has the network namespace of a process routes, or addresses of IPv6? proc_pid_net(5).
fn has_network(pid: u32) -> bool {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/net/{file}"));
    let (routes, addresses) = (read("route"), read("if_inet6"));
    let addressed = |line: &str| !line.ends_with(" lo");
    routes.is_ok_and(|text| text.lines().count() > 1)
        || addresses.is_ok_and(|text| text.lines().map(str::trim_end).any(addressed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::is_empty_at_first;

    #[test]
    fn what_is_new_and_not_filled_by_a_hook_is_empty_at_first() {
        let with = |namespace, hooks| {
            is_empty_at_first(&json!({"linux": {"namespaces": [namespace]}, "hooks": hooks}))
        };
        let new = json!({"type": "network"});
        assert!(with(new.clone(), json!({})));
        assert!(with(
            json!({"type": "network", "path": ""}),
            json!({"poststop": [{}]})
        ));
        assert!(!with(new, json!({"prestart": [{"path": "/bin/true"}]})));
        assert!(!with(
            json!({"type": "network", "path": "/run/netns/a"}),
            json!({})
        ));
        assert!(!with(json!({"type": "pid"}), json!({})));
    }
}
