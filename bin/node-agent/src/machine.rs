//! The machine: looked at, installed, verified and left by the installer.
//! Everything here blocks.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_guest::Cache;
use bulkhead_installer::config::{self, ConfigError, Place};
use bulkhead_installer::cri::Cri;
use bulkhead_installer::payload::{Payload, PayloadError};
use bulkhead_installer::preflight::{self, Finding, Weight};
use bulkhead_installer::runtime::{Runtime, RuntimeVersion};
use bulkhead_installer::seams::{self, Script, Smoke, Supervisor};
use bulkhead_installer::systemd::Systemd;
use bulkhead_installer::tree::{FileError, Tree};
use bulkhead_installer::version::Version;
use bulkhead_installer::{Error, Node, Status, Step, Verdict, Wish};
use bulkhead_kataconfig::{KataNodeSpec, Preflight};
use bulkhead_provision::monitor::{self, Accelerator};

use crate::order::{self, OrderError};
use crate::{MachineOptions, words};

/// Most bytes of a small file that is read.
const FILE_LIMIT: u64 = 64 << 10;
/// Longest identity of a machine. machine-id(5) has 32 digits.
const ID_LIMIT: usize = 64;
/// How long processes of pods are waited for that end: who deletes a pod without
/// grace has the API server forget it while the kubelet still ends it. Less than
/// the agent has itself when it is asked to stop.
const ENDING: Duration = Duration::from_secs(10);

/// Told of each step; may stop there as a kill would.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(Step) -> ControlFlow<()>;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The installer.
    #[error(transparent)]
    Installer(#[from] Error),
    /// The order itself.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The runtime's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The guest's cache.
    #[error("the guest that goes with the programs cannot be found; give --payload")]
    Guest(#[source] bulkhead_guest::Error),
    /// The runtime's interface or this program's own file.
    #[error("the kernel refuses what is needed to begin")]
    Kernel(#[from] std::io::Error),
    /// The machine.
    #[error("{0}")]
    Unable(String),
    /// Another version is asked for than there is.
    #[error(
        "version {} is not to be had here: this agent brings {offered}; set `spec.version` of \
         the KataConfig to it, or run the agent of that version",
        .wanted.escape_debug()
    )]
    Version {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// The system's image has to bring it, and does not.
    #[error("what the system's image has to bring is not as installed: {0}")]
    Preinstalled(String),
}

impl Refusal {
    /// Whether the agent itself stopped the work, to be finished by the next.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self, Self::Installer(Error::Stopped(_)))
    }
}

/// What a look at the machine found.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whether it can take an installation, and why not.
    pub(crate) preflight: Vec<Preflight>,
    /// `kvm`, `nested` or `none`.
    pub(crate) virtualization: Option<String>,
}

/// What new pods get.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Serves {
    /// The version, as the order names it.
    pub(crate) version: Option<String>,
    /// The handlers that were found to be as installed.
    pub(crate) handlers: Vec<String>,
}

/// What a verification found.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) serves: Serves,
    /// What is not as it should be.
    pub(crate) wrong: Option<String>,
    /// Whether installing again mends that.
    pub(crate) mendable: bool,
}

/// A machine, opened anew for each work.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    options: MachineOptions,
}

impl Machine {
    pub(crate) fn new(options: MachineOptions) -> Self {
        Self { options }
    }

    /// Its identity, machine-id(5).
    pub(crate) fn id(&self) -> Result<String, Refusal> {
        let tree = self.tree()?;
        let text = text(&tree, "/etc/machine-id");
        let id = text.as_deref().map(str::trim).unwrap_or_default();
        let plain = (1..=ID_LIMIT).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain {
            let reason = "`/etc/machine-id` holds no identity; run systemd-machine-id-setup(1)";
            return Err(Refusal::Unable(reason.to_owned()));
        }
        Ok(id.to_owned())
    }

    fn tree(&self) -> Result<Tree, FileError> {
        Tree::open(&self.options.host_root)
    }

    /// Looks, and changes nothing.
    pub(crate) fn look(&self) -> Seen {
        let (finding, virtualization) = self.virtualization();
        let mut findings = vec![finding];
        findings.extend(self.monitor());
        match self.tree() {
            Ok(tree) => {
                let (size, payload) = match self.payload() {
                    Ok(payload) => (
                        payload.size(),
                        Finding::ok("payload", payload.manifest().version.to_string()),
                    ),
                    Err(error) => (0, refused("payload", &error)),
                };
                let (version, place) = self.place(&tree);
                findings.push(payload);
                findings.extend(preflight::look(&tree, version, &place, size));
            }
            Err(error) => findings.push(refused("root", &error)),
        }
        Seen {
            preflight: words::preflight(&findings),
            virtualization: Some(virtualization.to_owned()),
        }
    }

    fn virtualization(&self) -> (Finding, &'static str) {
        let name = "virtualization";
        match monitor::probe("auto") {
            Ok(Accelerator::Kvm { round_ns }) => {
                let seen = format!("KVM runs guests; {round_ns} ns for a round");
                let nested = self.tree().is_ok_and(|tree| is_virtual(&tree));
                (
                    Finding::ok(name, seen),
                    if nested { "nested" } else { "kvm" },
                )
            }
            Ok(Accelerator::Tcg { reason, .. }) => {
                let weight = match self.options.allow_emulation {
                    true => Weight::Warn,
                    false => Weight::Fail,
                };
                (
                    Finding::bad(name, weight, reason, "as the text says"),
                    "none",
                )
            }
            Err(error) => (refused(name, &error), "none"),
        }
    }

    /// Below another root there is no PATH to ask, and no program to run.
    fn monitor(&self) -> Option<Finding> {
        if self.options.host_root != Path::new("/") {
            return None;
        }
        Some(match monitor::ask() {
            Ok((program, _)) => Finding::ok("monitor", program.path().display().to_string()),
            Err(error) => refused("monitor", &error),
        })
    }

    fn payload(&self) -> Result<Payload, Refusal> {
        let release = &self.options.payload_release;
        if let Some(dir) = &self.options.payload {
            return Ok(Payload::directory(dir, release)?);
        }
        let own = std::env::current_exe()?;
        let cache = Cache::default_root()
            .and_then(|root| Cache::open(&root))
            .map_err(Refusal::Guest)?;
        let dir = own.parent().unwrap_or(Path::new("/"));
        Ok(Payload::built(dir, &cache, release)?)
    }

    fn place(&self, tree: &Tree) -> (Option<RuntimeVersion>, Result<Place, ConfigError>) {
        let runtime = match config::detect(tree) {
            Ok(runtime) => runtime,
            Err(error) => return (None, Err(error)),
        };
        let given = self.options.runtime_version.as_deref();
        let version = match given.and_then(RuntimeVersion::parse) {
            None => self.cri(tree, runtime).and_then(|cri| {
                let (_, version) = cri.version().ok()?;
                RuntimeVersion::parse(&version)
            }),
            version => version,
        };
        (version, config::place(tree, runtime, version))
    }

    fn cri(&self, tree: &Tree, runtime: Runtime) -> Option<Cri> {
        Cri::new(
            &self.socket(tree, runtime),
            self.options.smoke_image.clone(),
        )
        .ok()
    }

    fn socket(&self, tree: &Tree, runtime: Runtime) -> PathBuf {
        let given = self.options.socket.clone();
        given.unwrap_or_else(|| runtime.socket_in(tree))
    }

    /// What is installed, without a trial.
    pub(crate) fn serves(&self, spec: &KataNodeSpec) -> Result<Serves, Refusal> {
        Ok(self
            .verify(spec, false, &mut |_| ControlFlow::Continue(()))?
            .serves)
    }

    /// Compares the machine with what was installed, and tries pods if `smoke`.
    pub(crate) fn verify(
        &self,
        spec: &KataNodeSpec,
        smoke: bool,
        observer: Observer<'_>,
    ) -> Result<Proof, Refusal> {
        let status = self.status()?;
        let runtime = status.runtime.unwrap_or(Runtime::Containerd);
        let found = self.with_node(runtime, smoke, observer, |node| node.verify())??;
        let names = match found.verdict {
            Verdict::Good => status.handlers,
            // The trial ends at the first handler that runs no pod.
            Verdict::Failing => found.tried,
            _ => Vec::new(),
        };
        let wrong = (found.verdict != Verdict::Good).then(|| match found.verdict {
            Verdict::Absent => "nothing is installed".to_owned(),
            Verdict::Unfinished => "a change was interrupted".to_owned(),
            _ => found.findings.join("; "),
        });
        Ok(Proof {
            serves: Serves {
                version: found.version.map(|version| told(&version, spec)),
                handlers: names,
            },
            wrong,
            mendable: found.verdict != Verdict::Failing && !spec.preinstalled,
        })
    }

    /// Makes the machine what the order asks for, and proves it.
    pub(crate) fn install(
        &self,
        spec: &KataNodeSpec,
        seen: &Seen,
        observer: Observer<'_>,
    ) -> Result<Serves, Refusal> {
        if let Some(reason) = words::failed(&seen.preflight) {
            return Err(Refusal::Unable(reason));
        }
        let smoke = spec.verification.enabled;
        let handlers = order::handlers(spec, &self.options.settings)?;
        if spec.preinstalled {
            let proof = self.verify(spec, smoke, observer)?;
            let missing = missing(spec, &proof.serves);
            return match proof.wrong.or(missing) {
                Some(wrong) => Err(Refusal::Preinstalled(wrong)),
                None => Ok(proof.serves),
            };
        }
        let tree = self.tree()?;
        let place = self.place(&tree).1?;
        let mut payload = self.payload()?;
        let offered = payload.manifest().version.clone();
        let wanted = spec.version.as_deref().unwrap_or_default();
        if told(&offered, spec) != wanted {
            return Err(Refusal::Version {
                wanted: wanted.chars().take(ID_LIMIT).collect(),
                offered: release(&offered).to_owned(),
            });
        }
        let wish = Wish { handlers, place };
        let runtime = wish.place.runtime;
        let report = self.with_node(runtime, smoke, observer, |node| {
            node.install(&mut payload, &wish)
        })??;
        if let Some(why) = &report.uncollected {
            tracing::warn!("old versions stay: {why}");
        }
        // What is told is what is there, not what was asked for.
        self.serves(spec)
    }

    /// Leaves the machine as it was found.
    pub(crate) fn uninstall(
        &self,
        spec: &KataNodeSpec,
        observer: Observer<'_>,
    ) -> Result<(), Refusal> {
        if spec.preinstalled {
            return Ok(());
        }
        let runtime = self.status()?.runtime.unwrap_or(Runtime::Containerd);
        let removal =
            self.with_node(runtime, false, observer, |node| node.uninstall(spec.force))??;
        for user in &removal.orphaned {
            tracing::warn!("process {user} lost its programs, as `force` asks");
        }
        Ok(())
    }

    fn status(&self) -> Result<Status, Refusal> {
        let mut nothing = |_: Step| ControlFlow::Continue(());
        Ok(
            self.with_node(Runtime::Containerd, false, &mut nothing, |node| {
                node.status()
            })??,
        )
    }

    fn with_node<T>(
        &self,
        runtime: Runtime,
        smoke: bool,
        mut observer: Observer<'_>,
        act: impl FnOnce(&mut Node<'_>) -> T,
    ) -> Result<T, Refusal> {
        let tree = self.tree()?;
        let mut supervisor: Box<dyn Supervisor> = match &self.options.restart_with {
            Some(program) => Box::new(Script(program.clone())),
            None => Box::new(Systemd::of(tree.path())),
        };
        let given = self.options.check_with.as_deref();
        let mut validator = seams::validator(given, runtime, &self.options.host_root);
        let socket = self.socket(&tree, runtime);
        let mut cri = match smoke {
            true => Some(Cri::new(&socket, self.options.smoke_image.clone())?),
            false => None,
        };
        Ok(act(&mut Node {
            tree,
            proc: "/proc".into(),
            supervisor: supervisor.as_mut(),
            validator: validator.as_mut(),
            smoke: cri.as_mut().map(|cri| cri as &mut dyn Smoke),
            ending: ENDING,
            observer: &mut observer,
        }))
    }
}

fn refused(name: &'static str, error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::bad(
        name,
        Weight::Fail,
        bulkhead_installer::chain(error),
        "as the text says",
    )
}

fn text(tree: &Tree, path: &str) -> Option<String> {
    let content = tree.read(Path::new(path), FILE_LIMIT).ok()??;
    Some(String::from_utf8_lossy(&content.bytes).into_owned())
}

/// Whether the machine is one of a hypervisor's itself: the bit CPUID leaves
/// for hypervisors, as proc_cpuinfo(5) names it.
fn is_virtual(tree: &Tree) -> bool {
    let cpus = text(tree, "/proc/cpuinfo").unwrap_or_default();
    let mut flags = cpus.lines().filter(|line| line.starts_with("flags"));
    flags
        .next()
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// The release of an installed version, which is named `RELEASE-DIGEST`.
fn release(version: &Version) -> &str {
    let text = version.as_str();
    text.rsplit_once('-').map_or(text, |(release, _)| release)
}

/// A version as an order names it: an order may name it whole, or only the
/// release.
fn told(version: &Version, spec: &KataNodeSpec) -> String {
    match &spec.version {
        Some(wanted) if wanted == version.as_str() => wanted.clone(),
        _ => release(version).to_owned(),
    }
}

/// What an order asks for and a machine does not serve.
fn missing(spec: &KataNodeSpec, serves: &Serves) -> Option<String> {
    if serves.version != spec.version {
        let has = serves.version.as_deref().unwrap_or("none");
        return Some(format!("its version is {has}"));
    }
    let mut wanted = spec.handlers.iter().map(|handler| &handler.name);
    let lost = wanted.find(|name| !serves.handlers.contains(name))?;
    Some(format!("it has no handler `{}`", lost.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_as_the_order_names_it() {
        let version = Version::try_from("1.2.0-rc.1-0123456789ab".to_owned()).unwrap();
        let mut spec = KataNodeSpec::default();
        assert_eq!(told(&version, &spec), "1.2.0-rc.1");
        spec.version = Some("1.2.0-rc.1-0123456789ab".into());
        assert_eq!(told(&version, &spec), "1.2.0-rc.1-0123456789ab");
        spec.version = Some("1.2.0".into());
        assert_eq!(told(&version, &spec), "1.2.0-rc.1");
    }

    #[test]
    fn what_an_image_has_to_bring_is_compared() {
        let mut spec = KataNodeSpec {
            version: Some("1".into()),
            ..KataNodeSpec::default()
        };
        let serves = Serves {
            version: Some("1".into()),
            handlers: vec!["kata".into()],
        };
        assert_eq!(missing(&spec, &serves), None);
        spec.handlers.push(bulkhead_kataconfig::HandlerSpec {
            name: "big".into(),
            ..Default::default()
        });
        assert!(missing(&spec, &serves).unwrap().contains("big"));
        spec.version = Some("2".into());
        assert!(missing(&spec, &serves).unwrap().contains("version is 1"));
    }
}
