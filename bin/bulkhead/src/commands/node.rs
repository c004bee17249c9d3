//! `bulkhead node`: this machine, for containerd or CRI-O.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulkhead_guest::Cache;
use bulkhead_installer::config::{self, ConfigError, Place};
use bulkhead_installer::cri::Cri;
use bulkhead_installer::handler::{Handler, HandlerName};
use bulkhead_installer::payload::Payload;
use bulkhead_installer::preflight::{self, Finding, Weight};
use bulkhead_installer::runtime::{Runtime, RuntimeVersion};
use bulkhead_installer::seams::{
    NoRestart, NoValidator, OwnProgram, Script, Smoke, Supervisor, Validator,
};
use bulkhead_installer::systemd::Systemd;
use bulkhead_installer::tree::Tree;
use bulkhead_installer::{Error, Node, Status, Step, Verdict, Wish};
use bulkhead_provision::monitor::{self, Accelerator};
use serde::Serialize;

use crate::cli::node::{
    InstallOptions, MachineOptions, NodeCommand, RestartOptions, RuntimeChoice, StatusOptions,
    UninstallOptions, VerifyOptions,
};
use crate::cli::{Format, FormatOption};
use crate::report::{CommandError, Outcome, chain};
use crate::style;

/// What pods ask for when nothing is said.
const DEFAULT_HANDLER: &str = "kata";

/// Most handlers.
const HANDLER_LIMIT: usize = 32;

/// Runs a node command.
pub(super) fn run(command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::Preflight(options) => preflight(&options),
        NodeCommand::Install(options) => install(&options),
        NodeCommand::Verify(options) => verify(&options),
        NodeCommand::Uninstall(options) => uninstall(&options),
        NodeCommand::Status(options) => status(&options),
    }
}

/// What is known before anything is done.
struct Plan {
    tree: Tree,
    payload: Payload,
    place: Result<Place, ConfigError>,
    socket: PathBuf,
    findings: Vec<Finding>,
}

fn plan(options: &InstallOptions) -> Result<Plan, CommandError> {
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
    let mut findings = vec![virtualization(options.allow_emulation), monitor()];
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
    }
}

fn socket(machine: &MachineOptions, tree: &Tree, runtime: Runtime) -> PathBuf {
    let default = || tree.outside(Path::new(runtime.socket()));
    machine.socket.clone().unwrap_or_else(default)
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

fn monitor() -> Finding {
    let name = "monitor";
    match monitor::find() {
        Ok(program) => Finding::ok(
            name,
            format!(
                "QEMU {} at {}",
                program.version_text(),
                program.path().display()
            ),
        ),
        Err(error) => Finding::bad(name, Weight::Fail, chain(&error), "as the text says"),
    }
}

fn preflight(options: &InstallOptions) -> Outcome {
    let plan = plan(options)?;
    print(&options.machine.format, &plan.findings, |findings| {
        for finding in findings {
            print_finding(finding);
        }
    })?;
    let failed = plan
        .findings
        .iter()
        .any(|finding| finding.weight == Weight::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print_finding(finding: &Finding) {
    let mark = match finding.weight {
        Weight::Ok => style::good("ok  "),
        Weight::Warn => style::bad("warn"),
        Weight::Fail => style::bad("fail"),
    };
    println!("{mark}  {:<15} {}", finding.name, finding.seen);
    if let Some(way_out) = &finding.way_out {
        println!("      {:<15} {way_out}", "");
    }
}

fn install(options: &InstallOptions) -> Outcome {
    let handlers = handlers(options)?;
    let mut plan = plan(options)?;
    let failed = plan
        .findings
        .iter()
        .filter(|finding| finding.weight == Weight::Fail);
    let failed: Vec<String> = failed
        .map(|finding| {
            let way_out = finding.way_out.as_deref().unwrap_or_default();
            format!("{}: {} ({way_out})", finding.name, finding.seen)
        })
        .collect();
    if !failed.is_empty() {
        let reasons = failed.join("; ");
        let text = format!("this machine cannot take it, and nothing was changed: {reasons}");
        return Err(CommandError::with_code(20, text));
    }
    let wish = Wish {
        handlers,
        place: plan.place?,
    };
    let mut supervisor = supervisor(&options.restart, plan.tree.path());
    let mut validator = validator(&options.machine, wish.place.runtime);
    let mut cri = Cri::new(&plan.socket, options.smoke.smoke_image.clone())?;
    let tries = !options.no_smoke && !options.restart.no_restart;
    let mut observer = say_step;
    let report = Node {
        tree: plan.tree,
        proc: "/proc".into(),
        supervisor: supervisor.as_mut(),
        validator: validator.as_mut(),
        smoke: tries.then_some(&mut cri as &mut dyn Smoke),
        observer: &mut observer,
    }
    .install(&mut plan.payload, &wish)
    .map_err(refused)?;
    print(&options.machine.format, &report, |report| {
        let what = if report.changed {
            "installed"
        } else {
            "nothing to change"
        };
        println!("{what}: version {}", report.version);
        for handler in &report.tried {
            println!("a pod of the handler `{handler}` ran");
        }
        for version in &report.kept {
            println!("version {version} stays: processes run it");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An error with the exit code of its kind.
fn refused(error: Error) -> CommandError {
    let code = match &error {
        Error::RolledBack { .. } => 21,
        Error::Stuck { .. } => 22,
        Error::InUse(_) => 23,
        _ => 125,
    };
    CommandError::with_code(code, chain(&error))
}

fn handlers(options: &InstallOptions) -> Result<Vec<Handler>, CommandError> {
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

fn supervisor(options: &RestartOptions, root: &Path) -> Box<dyn Supervisor> {
    match &options.restart_with {
        Some(program) => Box::new(Script(program.clone())),
        None if options.no_restart => Box::new(NoRestart),
        None => Box::new(Systemd::of(root)),
    }
}

fn validator(machine: &MachineOptions, runtime: Runtime) -> Box<dyn Validator> {
    let on_path = || {
        let name = runtime
            .program()
            .filter(|_| machine.host_root == Path::new("/"))?;
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    };
    match machine.check_with.clone().or_else(on_path) {
        Some(program) => Box::new(OwnProgram(program)),
        None => Box::new(NoValidator),
    }
}

fn say_step(step: Step) -> ControlFlow<()> {
    tracing::debug!("{step:?}");
    ControlFlow::Continue(())
}

/// A machine whose runtime is only read.
fn with_node<T>(
    machine: &MachineOptions,
    cri: Option<&mut Cri>,
    supervisor: &mut dyn Supervisor,
    runtime: Runtime,
    act: impl FnOnce(&mut Node<'_>) -> T,
) -> Result<T, CommandError> {
    let tree = Tree::open(&machine.host_root)?;
    let mut validator = validator(machine, runtime);
    let mut observer = say_step;
    Ok(act(&mut Node {
        tree,
        proc: "/proc".into(),
        supervisor,
        validator: validator.as_mut(),
        smoke: cri.map(|cri| cri as &mut dyn Smoke),
        observer: &mut observer,
    }))
}

fn installed(machine: &MachineOptions) -> Result<Status, CommandError> {
    let status = with_node(machine, None, &mut NoRestart, Runtime::Containerd, |node| {
        node.status()
    })?;
    Ok(status?)
}

fn verify(options: &VerifyOptions) -> Outcome {
    let machine = &options.machine;
    let runtime = installed(machine)?.runtime.unwrap_or(Runtime::Containerd);
    let tree = Tree::open(&machine.host_root)?;
    let mut cri = Cri::new(
        &socket(machine, &tree, runtime),
        options.image.smoke_image.clone(),
    )?;
    let smoke = options.smoke.then_some(&mut cri);
    let seen = with_node(machine, smoke, &mut NoRestart, runtime, |node| {
        node.verify()
    })??;
    print(&machine.format, &seen, |seen| {
        match (&seen.version, seen.verdict) {
            (Some(version), Verdict::Good) => println!("version {version} is as installed"),
            (_, Verdict::Absent) => println!("nothing is installed"),
            (_, Verdict::Unfinished) => {
                println!("a change was interrupted; run `bulkhead node install` or `uninstall`");
            }
            _ => println!("not as installed; `bulkhead node install` mends it"),
        }
        for finding in &seen.findings {
            println!("  {finding}");
        }
        for handler in &seen.tried {
            println!("a pod of the handler `{handler}` ran");
        }
    })?;
    Ok(ExitCode::from(match seen.verdict {
        Verdict::Good => 0,
        Verdict::Absent => 10,
        Verdict::Unfinished => 11,
        Verdict::Drifted => 12,
        Verdict::Unconfigured => 13,
        Verdict::Failing => 14,
    }))
}

fn uninstall(options: &UninstallOptions) -> Outcome {
    let machine = &options.machine;
    let runtime = installed(machine)?.runtime.unwrap_or(Runtime::Containerd);
    let mut supervisor = supervisor(&options.restart, &machine.host_root);
    let removal = with_node(machine, None, supervisor.as_mut(), runtime, |node| {
        node.uninstall(options.force)
    })?
    .map_err(refused)?;
    print(&machine.format, &removal, |removal| {
        let what = if removal.removed {
            "removed"
        } else {
            "nothing was installed"
        };
        println!("{what}");
        for user in &removal.orphaned {
            println!("process {user} lost its programs");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn status(options: &StatusOptions) -> Outcome {
    let status = installed(&options.machine)?;
    print(&options.machine.format, &status, |status| {
        if status.unfinished {
            println!("a change was interrupted");
        }
        let mut rows = vec![["VERSION", "FOR", "PROCESSES"].map(str::to_owned).to_vec()];
        for one in &status.versions {
            let role = if Some(&one.version) == status.version.as_ref() {
                "new pods"
            } else if Some(&one.version) == status.previous.as_ref() {
                "going back"
            } else {
                "its pods"
            };
            let count = one.users.len().to_string();
            rows.push(vec![one.version.to_string(), role.to_owned(), count]);
        }
        print!("{}", style::table(&rows));
        if let (Some(runtime), Some(config)) = (status.runtime, &status.config) {
            let handlers = status.handlers.join(", ");
            println!("\n{runtime} has {handlers} in `{}`", config.display());
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn print<T: Serialize>(
    format: &FormatOption,
    value: &T,
    table: impl FnOnce(&T),
) -> Result<(), CommandError> {
    if format.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        table(value);
    }
    Ok(())
}
