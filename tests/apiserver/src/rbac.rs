//! Who asks, and whether they may.
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>

use serde_json::Value;

use crate::cluster::Cluster;
use crate::object::{items, name, namespace, text, texts};
use crate::resource::RBAC;
use crate::store::{Kind, Name};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// As `system:serviceaccount:NAMESPACE:NAME`.
    pub(crate) name: String,
    /// Groups.
    pub(crate) groups: Vec<String>,
}

impl User {
    /// Longest name, bytes.
    const LIMIT: usize = 512;

    /// The user of this name; without one, an administrator.
    pub(crate) fn named(name: Option<&str>, more: Vec<String>) -> Self {
        let Some(name) = name.filter(|name| !name.is_empty() && name.len() <= Self::LIMIT) else {
            return Self {
                name: "kubernetes-admin".into(),
                groups: vec!["system:masters".into(), "system:authenticated".into()],
            };
        };
        let mut groups = more;
        groups.push("system:authenticated".into());
        if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            let namespace = account.split(':').next().unwrap_or_default();
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        Self {
            name: name.into(),
            groups,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With `/` and a subresource.
    pub(crate) resource: String,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Asked<'_> {
    /// What a review asks about.
    pub(crate) fn reviewed(attributes: &Value) -> Asked<'_> {
        let part = |name: &str| text(attributes, &[name]);
        Asked {
            verb: part("verb"),
            group: part("group"),
            resource: match part("subresource") {
                "" => part("resource").to_owned(),
                subresource => format!("{}/{subresource}", part("resource")),
            },
            namespace: part("namespace"),
            name: part("name"),
        }
    }

    /// What a refusal says.
    pub(crate) fn refused(&self, user: &User) -> String {
        let scope = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let qualified = match (self.group, self.resource.split_once('/')) {
            ("", None) => self.resource.clone(),
            ("", Some((plural, _))) => plural.to_owned(),
            (group, None) => format!("{}.{group}", self.resource),
            (group, Some((plural, _))) => format!("{plural}.{group}"),
        };
        let name = match self.name {
            "" => String::new(),
            name => format!(" \"{name}\""),
        };
        format!(
            "{qualified}{name} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \
             \"{}\" {scope}",
            user.name, self.verb, self.resource, self.group
        )
    }

    fn granted(&self, rule: &Value) -> bool {
        let has = |field: &str, wanted: &str| {
            texts(rule, &[field])
                .iter()
                .any(|found| found == "*" || found == wanted)
        };
        let any = self
            .resource
            .split_once('/')
            .map(|(_, sub)| format!("*/{sub}"));
        let names = texts(rule, &["resourceNames"]);
        has("verbs", self.verb)
            && has("apiGroups", self.group)
            && (has("resources", &self.resource) || any.is_some_and(|any| has("resources", &any)))
            && (names.is_empty() || names.iter().any(|name| name == self.name))
    }
}

impl Cluster {
    /// Whether a role bound to the user grants what is asked.
    pub(crate) fn allows(&self, user: &User, asked: &Asked<'_>) -> bool {
        if user.groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        let everywhere = self.granted_by("clusterrolebindings", "", user, asked);
        everywhere
            || (!asked.namespace.is_empty()
                && self.granted_by("rolebindings", asked.namespace, user, asked))
    }

    /// Why a user may not write this role or binding: it grants more than they have.
    /// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>
    pub(crate) fn escalates(&self, user: &User, plural: &str, object: &Value) -> Option<String> {
        let namespace = namespace(object);
        let (role, verb) = match plural {
            "roles" | "clusterroles" => (Some(object), "escalate"),
            _ => (self.role(object, namespace), "bind"),
        };
        let (resource, of) = match (verb, text(object, &["roleRef", "kind"])) {
            ("bind", "Role") => ("roles", text(object, &["roleRef", "name"])),
            ("bind", _) => ("clusterroles", text(object, &["roleRef", "name"])),
            _ => (plural, name(object)),
        };
        let exempt = Asked {
            verb,
            group: RBAC,
            resource: resource.to_owned(),
            namespace,
            name: of,
        };
        if self.allows(user, &exempt) {
            return None;
        }
        let rules = role.map_or(&[][..], |role| items(role, &["rules"]));
        let rule = rules
            .iter()
            .find(|rule| !self.holds(user, namespace, rule))?;
        Some(format!(
            "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently \
             held:\n{rule}",
            user.name, user.groups
        ))
    }

    /// Whether a user has all a rule grants.
    fn holds(&self, user: &User, namespace: &str, rule: &Value) -> bool {
        let mut names = texts(rule, &["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        let (verbs, groups) = (texts(rule, &["verbs"]), texts(rule, &["apiGroups"]));
        let resources = texts(rule, &["resources"]);
        verbs.iter().all(|verb| {
            groups.iter().all(|group| {
                resources.iter().all(|resource| {
                    names.iter().all(|name| {
                        let resource = resource.clone();
                        let asked = Asked {
                            verb,
                            group,
                            resource,
                            namespace,
                            name,
                        };
                        self.allows(user, &asked)
                    })
                })
            })
        })
    }

    fn granted_by(&self, bindings: &str, namespace: &str, user: &User, asked: &Asked<'_>) -> bool {
        self.store
            .list(&kind(bindings), namespace)
            .any(|(_, binding)| {
                let subjects = items(binding, &["subjects"]);
                subjects.iter().any(|subject| is(user, subject))
                    && self.role(binding, namespace).is_some_and(|role| {
                        items(role, &["rules"])
                            .iter()
                            .any(|rule| asked.granted(rule))
                    })
            })
    }

    fn role(&self, binding: &Value, namespace: &str) -> Option<&Value> {
        let name = text(binding, &["roleRef", "name"]).to_owned();
        let (plural, namespace) = match text(binding, &["roleRef", "kind"]) {
            "Role" => ("roles", namespace.to_owned()),
            _ => ("clusterroles", String::new()),
        };
        self.store
            .get(&kind(plural), &Name { namespace, name })
            .map(|role| &**role)
    }
}

fn kind(plural: &str) -> Kind {
    Kind {
        group: RBAC.into(),
        plural: plural.into(),
    }
}

fn is(user: &User, subject: &Value) -> bool {
    let name = text(subject, &["name"]);
    match text(subject, &["kind"]) {
        "ServiceAccount" => {
            let namespace = text(subject, &["namespace"]);
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        "Group" => user.groups.iter().any(|group| group == name),
        _ => user.name == name,
    }
}

#[cfg(test)]
mod tests;
