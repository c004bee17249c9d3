//! What is asked for, and whether the machine can take it.

use std::path::{Path, PathBuf};

use bulkhead_guest::Cache;
use bulkhead_installer::config::{self, ConfigError, Place};
use bulkhead_installer::cri::Cri;
use bulkhead_installer::handler::{Handler, HandlerName};
use bulkhead_installer::payload::Payload;
use bulkhead_installer::preflight::{self, Finding, Weight};
use bulkhead_installer::runtime::{Runtime, RuntimeVersion};
use bulkhead_installer::tree::Tree;
use bulkhead_provision::monitor::{self, Accelerator};

use crate::cli::node::{InstallOptions, MachineOptions, RuntimeChoice};
use crate::report::{CommandError, chain};

/// What pods ask for when nothing is said.
const DEFAULT_HANDLER: &str = "kata";

/// Most handlers.
const HANDLER_LIMIT: usize = 32;

/// What is known before anything is done.
pub(super) struct Plan {
    pub(super) tree: Tree,
    pub(super) payload: Payload,
    pub(super) place: Result<Place, ConfigError>,
    pub(super) socket: PathBuf,
    pub(super) findings: Vec<Finding>,
}

/// Looks at the machine and at what is to be installed.
pub(super) fn plan(options: &InstallOptions) -> Result<Plan, CommandError> {
    let tree = Tree::open(&options.machine.host_root)?;
    let payload = payload(options)?;
    let runtime = match options.runtime {
        Some(choice) => Ok(runtime_of(choice)),
        None => config::detect(&tree),
    };
    let known = runtime.as_ref().ok().copied();
    let socket = socket(
        &options.machine,
        &tree,
        known.unwrap_or(Runtime::Containerd),
    );
    let version = match &options.runtime_version {
        Some(text) => Some(RuntimeVersion::parse(text).ok_or_else(|| {
            CommandError::new(format!(
                "`{}` is no version: give 1.7, or 2.1",
                text.escape_debug()
            ))
        })?),
        None => asked_version(&socket),
    };
    let place = runtime.and_then(|runtime| config::place(&tree, runtime, version));
    let mut findings = vec![virtualization(options.allow_emulation)];
    findings.extend(monitor(tree.path()));
    findings.extend(preflight::look(&tree, version, &place, payload.size()));
    Ok(Plan {
        tree,
        payload,
        place,
        socket,
        findings,
    })
}

fn payload(options: &InstallOptions) -> Result<Payload, CommandError> {
    let release = env!("CARGO_PKG_VERSION");
    if let Some(dir) = &options.payload {
        return Ok(Payload::directory(dir, release)?);
    }
    let own = std::env::current_exe()?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let cache = Cache::open(&Cache::default_root()?)?;
    Ok(Payload::built(dir, &cache, release)?)
}

fn runtime_of(choice: RuntimeChoice) -> Runtime {
    match choice {
        RuntimeChoice::Containerd => Runtime::Containerd,
        RuntimeChoice::Crio => Runtime::Crio,
        RuntimeChoice::K3s => Runtime::K3s,
        RuntimeChoice::Rke2 => Runtime::Rke2,
        RuntimeChoice::K0s => Runtime::K0s,
        RuntimeChoice::Microk8s => Runtime::Microk8s,
        RuntimeChoice::Podman => Runtime::Podman,
    }
}

/// Where the runtime answers.
pub(super) fn socket(machine: &MachineOptions, tree: &Tree, runtime: Runtime) -> PathBuf {
    let given = machine.socket.clone();
    given.unwrap_or_else(|| runtime.socket_in(tree))
}

/// What the runtime says, when it runs.
fn asked_version(socket: &Path) -> Option<RuntimeVersion> {
    let (_, version) = Cri::new(socket, None).ok()?.version().ok()?;
    RuntimeVersion::parse(&version)
}

fn virtualization(allow_emulation: bool) -> Finding {
    let name = "virtualization";
    match monitor::probe("auto") {
        Ok(Accelerator::Kvm { round_ns }) => Finding::ok(
            name,
            format!("KVM runs guests; {round_ns} ns for a round of privileged instructions"),
        ),
        Ok(Accelerator::Tcg { reason, .. }) => {
            let weight = if allow_emulation {
                Weight::Warn
            } else {
                Weight::Fail
            };
            Finding::bad(
                name,
                weight,
                reason,
                "as the text says; or --allow-emulation, which is slow",
            )
        }
        Err(error) => Finding::bad(name, Weight::Fail, chain(&error), "as the text says"),
    }
}

/// Below another root there is no PATH to ask, and no program to run.
fn monitor(root: &Path) -> Option<Finding> {
    if root != Path::new("/") {
        return None;
    }
    let name = "monitor";
    Some(match monitor::ask() {
        Ok((program, version)) => Finding::ok(
            name,
            format!("QEMU {version} at {}", program.path().display()),
        ),
        Err(error) => Finding::bad(name, Weight::Fail, chain(&error), "as the text says"),
    })
}

/// The handlers that are asked for, with their settings.
pub(super) fn handlers(options: &InstallOptions) -> Result<Vec<Handler>, CommandError> {
    let default = [DEFAULT_HANDLER.to_owned()];
    let names = if options.handlers.is_empty() {
        &default[..]
    } else {
        &options.handlers
    };
    if names.len() > HANDLER_LIMIT {
        return Err(CommandError::new(format!(
            "more than {HANDLER_LIMIT} handlers"
        )));
    }
    let mut handlers = Vec::new();
    for name in names {
        handlers.push(Handler::new(HandlerName::try_from(name.clone())?));
    }
    for setting in &options.settings {
        let wrong = || {
            let text = setting.escape_debug();
            CommandError::new(format!("--set {text}: give [HANDLER:]SETTING=VALUE"))
        };
        let (whose, value) = setting.split_once('=').ok_or_else(wrong)?;
        let (only, key) = match whose.split_once(':') {
            Some((handler, key)) => (Some(handler), key),
            None => (None, whose),
        };
        let wanted = |handler: &&mut Handler| only.is_none_or(|only| handler.name.as_str() == only);
        let mut matching = handlers.iter_mut().filter(wanted).peekable();
        if matching.peek().is_none() {
            return Err(wrong());
        }
        for handler in matching {
            handler.set(key, value)?;
        }
    }
    Ok(handlers)
}
