//! What a release of the chart may say otherwise than the manifests.

/// A place in a manifest: kind, name, JSON pointer.
pub(crate) type Site = (&'static str, &'static str, &'static str);

/// A value; by default what the manifests have.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its place in `values.yaml`.
    pub(crate) path: &'static str,
    pub(crate) help: &'static str,
    /// JSON Schema.
    pub(crate) schema: &'static str,
    /// What it is where the manifests have nothing there, as JSON.
    pub(crate) absent: Option<&'static str>,
    pub(crate) sites: &'static [Site],
}

/// Files that are part of a release only if it says so.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) path: &'static str,
    pub(crate) help: &'static str,
    pub(crate) default: bool,
    /// A Go expression that turns it on, too.
    pub(crate) also: Option<&'static str>,
    pub(crate) files: &'static [&'static str],
}

const OPERATOR: (&str, &str) = ("Deployment", "bulkhead-operator");
const AGENT: (&str, &str) = ("DaemonSet", "bulkhead-node-agent");
const MONITOR: (&str, &str) = ("DaemonSet", "bulkhead-monitor");

const fn site(of: (&'static str, &'static str), pointer: &'static str) -> Site {
    (of.0, of.1, pointer)
}

const IMAGE: &str = "/spec/template/spec/containers/0/image";
const ARGS: &str = "/spec/template/spec/containers/0/args";
const RESOURCES: &str = "/spec/template/spec/containers/0/resources";
const TOLERATIONS: &str = "/spec/template/spec/tolerations";
const NODES: &str = "/spec/template/spec/nodeSelector";
const PULL: &str = "/spec/template/spec/imagePullSecrets";

const TEXT: &str = r#"{"type": "string", "minLength": 1}"#;
const TEXTS: &str = r#"{"type": "array", "items": {"type": "string"}}"#;
const OBJECT: &str = r#"{"type": "object"}"#;
const OBJECTS: &str = r#"{"type": "array", "items": {"type": "object"}}"#;
const LABELS: &str = r#"{"type": "object", "additionalProperties": {"type": "string"}}"#;

pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        path: "imagePullSecrets",
        help: "Secrets for the registry of the images, as [{name: mine}].",
        schema: r#"{"type": "array", "items": {"type": "object", "required": ["name"]}}"#,
        absent: Some("[]"),
        sites: &[site(OPERATOR, PULL), site(AGENT, PULL), site(MONITOR, PULL)],
    },
    Setting {
        path: "operator.image",
        help: "The operator's image.",
        schema: TEXT,
        absent: None,
        sites: &[site(OPERATOR, IMAGE)],
    },
    Setting {
        path: "operator.replicas",
        help: "One acts; the others wait for its lease.",
        schema: r#"{"type": "integer", "minimum": 1, "maximum": 5}"#,
        absent: None,
        sites: &[site(OPERATOR, "/spec/replicas")],
    },
    Setting {
        path: "operator.args",
        help: "Its arguments; --release=CHANNEL=VERSION may be given again.",
        schema: TEXTS,
        absent: None,
        sites: &[site(OPERATOR, ARGS)],
    },
    Setting {
        path: "operator.resources",
        help: "What its container asks for and may have.",
        schema: OBJECT,
        absent: None,
        sites: &[site(OPERATOR, RESOURCES)],
    },
    Setting {
        path: "operator.tolerations",
        help: "Taints it may run on.",
        schema: OBJECTS,
        absent: None,
        sites: &[site(OPERATOR, TOLERATIONS)],
    },
    Setting {
        path: "operator.nodeSelector",
        help: "Labels of the nodes it may run on.",
        schema: LABELS,
        absent: None,
        sites: &[site(OPERATOR, NODES)],
    },
    Setting {
        path: "nodeAgent.image",
        help: "The image with the node agent and its payload.",
        schema: TEXT,
        absent: None,
        sites: &[site(AGENT, IMAGE), site(MONITOR, IMAGE)],
    },
    Setting {
        path: "nodeAgent.args",
        help: "Its arguments.",
        schema: TEXTS,
        absent: None,
        sites: &[site(AGENT, ARGS)],
    },
    Setting {
        path: "nodeAgent.resources",
        help: "What its container asks for and may have.",
        schema: OBJECT,
        absent: None,
        sites: &[site(AGENT, RESOURCES)],
    },
    Setting {
        path: "nodeAgent.tolerations",
        help: "Taints it and the monitor may run on.",
        schema: OBJECTS,
        absent: None,
        sites: &[site(AGENT, TOLERATIONS), site(MONITOR, TOLERATIONS)],
    },
    Setting {
        path: "nodeAgent.nodeSelector",
        help: "Labels of the nodes it and the monitor may run on.",
        schema: LABELS,
        absent: None,
        sites: &[site(AGENT, NODES), site(MONITOR, NODES)],
    },
    Setting {
        path: "monitor.resources",
        help: "What its container asks for and may have.",
        schema: OBJECT,
        absent: None,
        sites: &[site(MONITOR, RESOURCES)],
    },
    Setting {
        path: "networkPolicies.metricsFrom",
        help: "Namespaces that may ask for metrics.",
        schema: TEXTS,
        absent: None,
        sites: &[
            (
                "NetworkPolicy",
                "bulkhead-operator",
                "/spec/ingress/0/from/0/namespaceSelector/matchExpressions/0/values",
            ),
            (
                "NetworkPolicy",
                "bulkhead-node-agent",
                "/spec/ingress/0/from/0/namespaceSelector/matchExpressions/0/values",
            ),
            (
                "NetworkPolicy",
                "bulkhead-monitor",
                "/spec/ingress/0/from/0/namespaceSelector/matchExpressions/0/values",
            ),
        ],
    },
    Setting {
        path: "policies.classes",
        help: "The runtime classes the policies are about.",
        schema: r#"{"type": "array", "minItems": 1,
                    "items": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}}"#,
        absent: Some(r#"["kata"]"#),
        // Parts of expressions: see expression.rs.
        sites: &[],
    },
];

pub(crate) const SWITCHES: &[Switch] = &[
    Switch {
        path: "monitor.enabled",
        help: "The figures of each node's pods, for Prometheus.",
        default: true,
        also: None,
        files: &["monitor/daemonset.yaml"],
    },
    Switch {
        path: "networkPolicies.enabled",
        help: "Nothing open but what is needed.",
        default: true,
        also: None,
        files: &[
            "operator/network.yaml",
            "node-agent/network.yaml",
            "monitor/network.yaml",
        ],
    },
    Switch {
        path: "policies.hostNamespaces",
        help: "Refuse pods of the classes that ask for namespaces of the host.",
        default: true,
        also: None,
        files: &["policies/host-namespaces.yaml"],
    },
    Switch {
        path: "policies.doubtful",
        help: "Warn of hostPath volumes and privileged containers with the classes.",
        default: true,
        also: None,
        files: &["policies/doubtful.yaml"],
    },
    Switch {
        path: "policies.requiredClass",
        help: "Namespaces with the label bulkhead/required: kata take pods of that class only.",
        default: false,
        also: None,
        files: &["policies/required-class.yaml"],
    },
    Switch {
        path: "openshift.enabled",
        help: "SecurityContextConstraints; where the cluster has the kind they are made anyway.",
        default: false,
        also: Some(r#"(.Capabilities.APIVersions.Has "security.openshift.io/v1")"#),
        files: &["openshift/scc.yaml"],
    },
    Switch {
        path: "prometheus.monitors",
        help: "PodMonitors; the Prometheus Operator has to be there.",
        default: false,
        also: None,
        files: &["prometheus/monitors.yaml"],
    },
    Switch {
        path: "prometheus.rules",
        help: "Alerts, as a PrometheusRule.",
        default: false,
        also: None,
        files: &["prometheus/rules.yaml"],
    },
    Switch {
        path: "grafana.dashboards",
        help: "Dashboards, as a ConfigMap with the label Grafana's sidecar looks for.",
        default: false,
        also: None,
        files: &["grafana"],
    },
];
