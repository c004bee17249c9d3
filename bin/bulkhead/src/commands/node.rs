//! `bulkhead node`: this machine, for containerd, CRI-O or Podman.

mod plan;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_installer::cri::Cri;
use bulkhead_installer::podman::Podman;
use bulkhead_installer::preflight::{Finding, Weight};
use bulkhead_installer::runtime::Runtime;
use bulkhead_installer::seams::{self, NoRestart, Script, Smoke, Supervisor, Validator};
use bulkhead_installer::systemd::Systemd;
use bulkhead_installer::tree::Tree;
use bulkhead_installer::{Error, Node, Status, Step, Verdict, Wish};
use serde::Serialize;

use self::plan::{handlers, plan, socket};
use crate::cli::node::{
    InstallOptions, MachineOptions, NodeCommand, RestartOptions, StatusOptions, UninstallOptions,
    VerifyOptions,
};
use crate::cli::{Format, FormatOption};
use crate::report::{CommandError, Outcome, chain};
use crate::style;

/// How long pods that were just removed may take to be gone.
const ENDING: Duration = Duration::from_secs(2);

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
    let image = options.smoke.smoke_image.clone();
    let mut smoke = smoke(wish.place.runtime, plan.tree.path(), &plan.socket, image)?;
    let tries = !options.no_smoke && !options.restart.no_restart;
    let mut observer = say_step;
    let report = Node {
        tree: plan.tree,
        proc: "/proc".into(),
        supervisor: supervisor.as_mut(),
        validator: validator.as_mut(),
        smoke: smoke
            .as_mut()
            .filter(|_| tries)
            .map(|own| own.as_mut() as _),
        ending: ENDING,
        observer: &mut observer,
    }
    .install(&mut plan.payload, &wish)
    .map_err(|error| refused(&error))?;
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
        if let Some(why) = &report.uncollected {
            println!("old versions stay: {why}");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An error with the exit code of its kind.
fn refused(error: &Error) -> CommandError {
    let code = match error {
        Error::RolledBack { .. } => 21,
        Error::Stuck { .. } => 22,
        Error::InUse(_) => 23,
        _ => 125,
    };
    CommandError::with_code(code, chain(error))
}

/// Who tries a handler.
fn smoke(
    runtime: Runtime,
    root: &Path,
    socket: &Path,
    image: Option<String>,
) -> Result<Option<Box<dyn Smoke>>, CommandError> {
    Ok(match runtime {
        Runtime::Podman => Podman::of(root).map(|podman| Box::new(podman) as Box<dyn Smoke>),
        _ => Some(Box::new(Cri::new(socket, image)?)),
    })
}

fn supervisor(options: &RestartOptions, root: &Path) -> Box<dyn Supervisor> {
    match &options.restart_with {
        Some(program) => Box::new(Script(program.clone())),
        None if options.no_restart => Box::new(NoRestart),
        None => Box::new(Systemd::of(root)),
    }
}

fn validator(machine: &MachineOptions, runtime: Runtime) -> Box<dyn Validator> {
    seams::validator(machine.check_with.as_deref(), runtime, &machine.host_root)
}

fn say_step(step: Step) -> ControlFlow<()> {
    tracing::debug!("{step:?}");
    ControlFlow::Continue(())
}

/// A machine whose runtime is only read.
fn with_node<T>(
    machine: &MachineOptions,
    smoke: Option<&mut Box<dyn Smoke>>,
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
        smoke: smoke.map(|own| own.as_mut() as _),
        ending: ENDING,
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
    let socket = socket(machine, &tree, runtime);
    let image = options.image.smoke_image.clone();
    let mut smoke = smoke(runtime, &machine.host_root, &socket, image)?;
    let smoke = smoke.as_mut().filter(|_| options.smoke);
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
    .map_err(|error| refused(&error))?;
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
