//! Paths.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris>

use percent_encoding::percent_decode_str;

/// Most segments of a path that is looked at.
const SEGMENTS: usize = 12;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Version,
    Health,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// The kinds of a version.
    Kinds {
        group: String,
        version: String,
    },
    OpenApi2,
    OpenApi3,
    /// The document of a version.
    OpenApi3Of {
        group: String,
        version: String,
    },
    /// What a user may do; their own, or another's.
    Review {
        own: bool,
    },
    Object(Place),
    Nothing,
}

/// Where objects are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
}

impl Route {
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Vec<_> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .take(SEGMENTS)
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["version"] => Self::Version,
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["openapi", "v2"] => Self::OpenApi2,
            ["openapi", "v3"] => Self::OpenApi3,
            ["openapi", "v3", "api", version] => Self::OpenApi3Of {
                group: String::new(),
                version: (*version).into(),
            },
            ["openapi", "v3", "apis", group, version] => Self::OpenApi3Of {
                group: (*group).into(),
                version: (*version).into(),
            },
            ["apis", "authorization.k8s.io", "v1", review] => match *review {
                "selfsubjectaccessreviews" => Self::Review { own: true },
                "subjectaccessreviews" => Self::Review { own: false },
                _ => Self::Nothing,
            },
            ["api"] => Self::Core,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).into()),
            ["api", version] => Self::Kinds {
                group: String::new(),
                version: (*version).into(),
            },
            ["apis", group, version] => Self::Kinds {
                group: (*group).into(),
                version: (*version).into(),
            },
            ["api", version, rest @ ..] => Place::parse("", version, rest),
            ["apis", group, version, rest @ ..] => Place::parse(group, version, rest),
            _ => Self::Nothing,
        }
    }
}

impl Place {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Route {
        let mut place = Self {
            group: group.into(),
            version: version.into(),
            ..Self::default()
        };
        // A namespace has subresources of its own; everything else below it lives in it.
        let rest = match rest {
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => rest,
            ["namespaces", namespace, rest @ ..] => {
                place.namespace = (*namespace).into();
                rest
            }
            rest => rest,
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, "", ""),
            [plural, name] => (plural, *name, ""),
            [plural, name, subresource] => (plural, *name, *subresource),
            _ => return Route::Nothing,
        };
        place.plural = (*plural).into();
        place.name = name.into();
        place.subresource = subresource.into();
        Route::Object(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_with_and_without_namespaces() {
        let place = |path: &str| match Route::parse(path) {
            Route::Object(place) => place,
            other => panic!("{path}: {other:?}"),
        };
        let node = place("/api/v1/nodes/a/status");
        assert_eq!(
            (&*node.plural, &*node.name, &*node.subresource),
            ("nodes", "a", "status")
        );
        let pods = place("/api/v1/namespaces/x/pods");
        assert_eq!(
            (&*pods.namespace, &*pods.plural, &*pods.name),
            ("x", "pods", "")
        );
        let own = place("/apis/a.example/v1/namespaces/x/things/y");
        assert_eq!(
            (&*own.group, &*own.namespace, &*own.name),
            ("a.example", "x", "y")
        );
        let role = place("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(role.name, "system:node");
    }

    #[test]
    fn a_namespace_is_an_object_itself() {
        for (path, name, subresource) in [
            ("/api/v1/namespaces", "", ""),
            ("/api/v1/namespaces/x", "x", ""),
            ("/api/v1/namespaces/x/finalize", "x", "finalize"),
        ] {
            let Route::Object(place) = Route::parse(path) else {
                panic!("{path}");
            };
            assert_eq!(place.plural, "namespaces");
            assert_eq!((&*place.name, &*place.subresource), (name, subresource));
        }
    }

    #[test]
    fn what_leads_nowhere_is_nothing() {
        for path in [
            "/",
            "/metrics",
            "/api/v1/namespaces/a/b/c/d/e/f/g/h/i/j/k/l/m",
        ] {
            assert_eq!(Route::parse(path), Route::Nothing, "{path}");
        }
    }
}
