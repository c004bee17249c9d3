//! The rules in CEL of the manifests, judged by Kubernetes' own library.

use crate::next::Root;
use crate::run::{self, Outcome};

/// Go, and what Debian has of Kubernetes as a library.
const GO: Root = Root {
    name: "rules",
    packages: &[
        "ca-certificates",
        "golang-github-google-cel-go-dev",
        "golang-go",
        "golang-k8s-api-dev",
        "golang-k8s-apiserver-dev",
        "golang-k8s-client-go-dev",
        "golang-k8s-kube-openapi-dev",
        "golang-k8s-sigs-apiserver-network-proxy-dev",
        "golang-k8s-sigs-yaml-dev",
        "mount",
    ],
};

/// Packages of Debian's are found without modules.
const ENVIRONMENT: [&str; 3] = [
    "GOPATH=/usr/share/gocode",
    "GO111MODULE=off",
    "GOCACHE=/var/cache/go",
];

/// Compiles the judge, and has it judge; the first time takes three minutes.
pub(crate) fn run() -> Outcome {
    let words = ["env"].into_iter().chain(ENVIRONMENT);
    let judge = [
        "go",
        "run",
        "tests/rules/main.go",
        "deploy",
        "tests/rules/cases.yaml",
    ];
    let words: Vec<_> = words.chain(judge).collect();
    run::command(&mut GO.command(&words)?)
}
