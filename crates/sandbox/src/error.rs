//! Why a sandbox did not start, told so that somebody can act on it.

use std::fmt;

use bulkhead_hypervisor::{Error as VmmError, ExitReason};

/// How far a start came. Drawn in the order they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The monitor is being started.
    Monitor,
    /// The guest kernel boots, up to the agent's first byte.
    Kernel,
    /// The agent runs and is being greeted.
    Agent,
    /// Network and names are being set up in the guest.
    Configure,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monitor => "starting the virtual machine monitor",
            Self::Kernel => "booting the guest kernel",
            Self::Agent => "greeting the guest agent",
            Self::Configure => "configuring the guest",
        })
    }
}

/// A sandbox that did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox stopped while {phase}: {reason}{}{}", quote(.console), hinted(.hint))]
pub struct StartError {
    /// How far it came.
    pub phase: Phase,
    /// What happened.
    pub reason: String,
    /// The guest console's last lines, oldest first.
    pub console: Vec<String>,
    /// What to try; may be empty.
    pub hint: &'static str,
}

fn quote(console: &[String]) -> String {
    if console.is_empty() {
        return String::new();
    }
    format!(
        "\nlast lines of the guest console:\n  | {}",
        console.join("\n  | ")
    )
}

fn hinted(hint: &str) -> String {
    if hint.is_empty() {
        String::new()
    } else {
        format!("\nhint: {hint}")
    }
}

impl StartError {
    pub(crate) fn monitor(error: &VmmError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        Self {
            phase: Phase::Monitor,
            reason: format!("{error}{}", cause.unwrap_or_default()),
            console: Vec::new(),
            hint: "`bulkhead check` tells what this host lacks",
        }
    }

    pub(crate) fn exited(phase: Phase, exit: &ExitReason, console: Vec<String>) -> Self {
        let hint = exit_hint(exit, &console);
        Self {
            phase,
            reason: exit.to_string(),
            console,
            hint,
        }
    }

    pub(crate) fn timeout(phase: Phase, seconds: u64, console: Vec<String>) -> Self {
        Self {
            phase,
            reason: format!("no answer within {seconds} s"),
            console,
            hint: "a host without hardware virtualization may need longer: \
                   set BULKHEAD_START_TIMEOUT to a number of seconds",
        }
    }
}

fn exit_hint(exit: &ExitReason, console: &[String]) -> &'static str {
    let says = |words: &str| console.iter().any(|line| line.contains(words));
    if says("Out of memory") || says("not enough memory") || says("System is deadlocked on memory")
    {
        return "the guest ran out of memory while booting: give it more with --memory";
    }
    match exit {
        ExitReason::Signal(9) => "look for the out-of-memory killer in the host's kernel log",
        ExitReason::Failed { message, .. } if message.contains("allocate memory") => {
            "the host cannot give the guest its memory: ask for less with --memory"
        }
        ExitReason::GuestStopped if console.is_empty() => {
            "the kernel said nothing: with very little memory it cannot even start; \
             try --memory 128M or more"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_holds_phase_reason_console_and_hint() {
        let console = vec![
            "one".to_owned(),
            "Out of memory: Killed process 1".to_owned(),
        ];
        let text =
            StartError::exited(Phase::Kernel, &ExitReason::GuestStopped, console).to_string();
        assert!(
            text.starts_with("the sandbox stopped while booting the guest kernel"),
            "{text}"
        );
        assert!(
            text.contains("  | one\n") && text.contains("hint: the guest ran out"),
            "{text}"
        );
    }
}
