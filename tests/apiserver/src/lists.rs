//! Which lists and maps are merged, and by what.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>

use crate::schema::{List, Schema};

/// Keys of the lists of built-in kinds, by the field's name: for server-side apply, then the one
/// for strategic merge patches (empty: replaced). From the markers in `k8s.io/api`.
const BUILT_IN: [(&str, &[&str], &str); 21] = [
    ("ownerReferences", &["uid"], "uid"),
    ("conditions", &["type"], "type"),
    ("containers", &["name"], "name"),
    ("initContainers", &["name"], "name"),
    ("ephemeralContainers", &["name"], "name"),
    ("env", &["name"], "name"),
    ("volumes", &["name"], "name"),
    ("volumeMounts", &["mountPath"], "mountPath"),
    ("volumeDevices", &["devicePath"], "devicePath"),
    ("imagePullSecrets", &["name"], "name"),
    ("hostAliases", &["ip"], "ip"),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
        "topologyKey",
    ),
    ("resourceClaims", &["name"], "name"),
    ("addresses", &["type"], "type"),
    ("podIPs", &["ip"], "ip"),
    ("hostIPs", &["ip"], "ip"),
    ("schedulingGates", &["name"], "name"),
    ("claims", &["name"], "name"),
    ("secrets", &["name"], "name"),
    ("matchConditions", &["name"], "name"),
    ("variables", &["name"], "name"),
];

/// Lists of plain values that are merged.
const SETS: [&str; 3] = ["finalizers", "podCIDRs", "validationActions"];

/// Maps that are one value.
const ATOMIC_MAPS: [&str; 10] = [
    "selector",
    "nodeSelector",
    "labelSelector",
    "namespaceSelector",
    "objectSelector",
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "roleRef",
];

/// How lists below a place are merged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a built-in kind, below the field of this name.
    BuiltIn(&'a str),
    /// In a custom one.
    Custom(&'a Schema),
    /// Where nothing is declared.
    Unknown,
}

impl<'a> Place<'a> {
    /// Where an object begins.
    pub(crate) fn root(schema: Option<&'a Schema>) -> Self {
        schema.map_or(Self::BuiltIn(""), Self::Custom)
    }

    /// The place of a field.
    pub(crate) fn field(self, name: &'a str) -> Self {
        match self {
            Self::BuiltIn(_) => Self::BuiltIn(name),
            // Metadata is the same for all, whatever the schema says.
            Self::Custom(_) if name == "metadata" => Self::BuiltIn(name),
            Self::Custom(schema) => schema.field(name).map_or(Self::Unknown, Self::Custom),
            Self::Unknown => Self::Unknown,
        }
    }

    /// The place of an item of the list here.
    pub(crate) fn item(self) -> Self {
        match self {
            Self::Custom(schema) => schema.items.as_deref().map_or(Self::Unknown, Self::Custom),
            other => other,
        }
    }

    /// How the list here is merged by server-side apply.
    pub(crate) fn list(self) -> List {
        let keys = |keys: &[&str]| List::Map(keys.iter().map(|&key| key.to_owned()).collect());
        match self {
            Self::Custom(schema) => schema.list.clone(),
            Self::Unknown => List::Atomic,
            // Of containers and of services: those keys an item has.
            Self::BuiltIn("ports") => keys(&["containerPort", "port", "protocol"]),
            Self::BuiltIn(name) if SETS.contains(&name) => List::Set,
            Self::BuiltIn(name) => BUILT_IN
                .iter()
                .find(|(field, ..)| *field == name)
                .map_or(List::Atomic, |(_, found, _)| keys(found)),
        }
    }

    /// Whether the map here is one value.
    pub(crate) fn atomic_map(self) -> bool {
        match self {
            Self::BuiltIn(name) => ATOMIC_MAPS.contains(&name),
            Self::Custom(schema) => schema.atomic_map,
            Self::Unknown => false,
        }
    }
}

/// How a strategic merge patch treats the list in the field `name` of a built-in kind, given one
/// of its items.
pub(crate) fn strategic(name: &str, item: Option<&serde_json::Value>) -> List {
    let key = match name {
        // Of containers and of services.
        "ports" if item.is_some_and(|item| item.get("containerPort").is_some()) => "containerPort",
        "ports" => "port",
        name if SETS.contains(&name) => return List::Set,
        name => BUILT_IN
            .iter()
            .find(|(field, ..)| *field == name)
            .map_or("", |(_, _, key)| key),
    };
    match key {
        "" => List::Atomic,
        key => List::Map(vec![key.to_owned()]),
    }
}
