//! How findings and steps are told in a status, within the API's bounds.

use bulkhead_installer::Step;
use bulkhead_installer::preflight::{Finding, Weight};
use bulkhead_kataconfig::Preflight;

/// Bounds of the texts in a `KataNodeStatus`, characters.
const STEP: usize = 128;
const ERROR: usize = 1024;
const CHECK: usize = 64;
const MESSAGE: usize = 512;
/// Most checks in it.
const CHECKS: usize = 32;

/// As much of a text as fits.
fn within(text: &str, limit: usize) -> String {
    text.chars().take(limit).collect()
}

/// A reason, as `lastError` takes it.
pub(crate) fn error(text: &str) -> String {
    within(text, ERROR)
}

/// What is being done, as `step` takes it.
pub(crate) fn doing(text: &str) -> String {
    within(text, STEP)
}

/// A short fact: a kernel's release, a version.
pub(crate) fn fact(text: &str) -> String {
    within(text, CHECK)
}

/// What was looked at. A warning passes: it will work.
pub(crate) fn preflight(findings: &[Finding]) -> Vec<Preflight> {
    let told = |finding: &Finding| {
        let message = match &finding.way_out {
            Some(way_out) => format!("{} ({way_out})", finding.seen),
            None => finding.seen.clone(),
        };
        Preflight {
            check: within(finding.name, CHECK),
            passed: finding.weight != Weight::Fail,
            message: Some(within(&message, MESSAGE)),
        }
    };
    findings.iter().take(CHECKS).map(told).collect()
}

/// The checks that failed, as one reason; none when none did.
pub(crate) fn failed(findings: &[Preflight]) -> Option<String> {
    let failed = findings.iter().filter(|check| !check.passed);
    let texts: Vec<_> = failed
        .map(|check| {
            let message = check.message.as_deref().unwrap_or_default();
            format!("{}: {message}", check.check)
        })
        .collect();
    (!texts.is_empty()).then(|| format!("this machine cannot take it: {}", texts.join("; ")))
}

/// What comes after a step, and how far that is.
pub(crate) fn step(step: Step) -> Option<(&'static str, u32)> {
    Some(match step {
        Step::Journal => ("copying files", 10),
        Step::Staged | Step::Placed => ("placing the version", 40),
        Step::Settings | Step::Linked => ("writing settings", 50),
        Step::Configured => ("checking the runtime's configuration", 60),
        Step::Validated | Step::Restarting => ("restarting the runtime", 65),
        Step::Restarted => ("running a pod of each handler", 75),
        Step::Tried => ("collecting old versions", 95),
        Step::Unconfigured => ("restarting the runtime", 40),
        Step::Renamed => ("removing files", 80),
        Step::Undone => ("undoing", 50),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(error(&"ä".repeat(2000)).chars().count(), 1024);
        assert_eq!(doing("short"), "short");
    }

    #[test]
    fn a_warning_passes_and_a_failure_says_the_way_out() {
        let findings = [
            Finding::ok("usr", "fine"),
            Finding::bad("selinux", Weight::Warn, "enforcing", "look for denials"),
            Finding::bad("disk", Weight::Fail, "full", "make room"),
        ];
        let told = preflight(&findings);
        let passed: Vec<_> = told.iter().map(|check| check.passed).collect();
        assert_eq!(passed, [true, true, false]);
        let reason = failed(&told).unwrap();
        assert!(reason.ends_with("disk: full (make room)"), "{reason}");
        assert_eq!(failed(&told[..2]), None);
    }
}
