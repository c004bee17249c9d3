//! The profile format of containers-common and Docker: rules that depend on
//! the container's capabilities and the processor.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscallBuilder,
};
use serde::Deserialize;

use crate::Error;

/// Largest profile, bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Rules, and names in a rule, at most.
const RULE_LIMIT: usize = 2000;

/// This processor's name in `arches`.
const ARCH: &str = "amd64";

/// A parsed profile.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The form before names could be many.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl Profile {
    /// Parses JSON.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > SIZE_LIMIT {
            return Err(Error::TooLarge(format!("{} bytes", text.len())));
        }
        let profile: Self = serde_json::from_slice(text).map_err(Error::Malformed)?;
        let largest = profile
            .syscalls
            .iter()
            .map(|rule| rule.names.len())
            .max()
            .unwrap_or(0);
        if profile.syscalls.len().max(largest) > RULE_LIMIT {
            return Err(Error::TooLarge(format!(
                "more than {RULE_LIMIT} rules or names"
            )));
        }
        Ok(profile)
    }

    /// The rules that hold for a container with these capabilities.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the parts do not fit together.
    pub fn resolve(&self, capabilities: &[Capability]) -> Result<LinuxSeccomp, Error> {
        let has = |name: &String| {
            let plain = name.strip_prefix("CAP_").unwrap_or(name);
            capabilities.iter().any(|capability| {
                let text = capability.to_string();
                text.strip_prefix("CAP_").unwrap_or(&text) == plain
            })
        };
        let here = |arch: &String| arch == ARCH;
        let mut list = Vec::new();
        for rule in &self.syscalls {
            let included = (rule.includes.caps.iter().all(has))
                && (rule.includes.arches.is_empty() || rule.includes.arches.iter().any(here));
            let excluded =
                rule.excludes.caps.iter().any(has) || rule.excludes.arches.iter().any(here);
            if included && !excluded {
                list.push(rule.to_oci()?);
            }
        }
        let mut filter = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(vec![
                Arch::ScmpArchX86_64,
                Arch::ScmpArchX86,
                Arch::ScmpArchX32,
            ])
            .syscalls(list);
        if let Some(errno) = self.default_errno_ret {
            filter = filter.default_errno_ret(errno);
        }
        filter
            .build()
            .map_err(|error| Error::Unsupported(error.to_string()))
    }
}

impl Rule {
    fn to_oci(&self) -> Result<oci_spec::runtime::LinuxSyscall, Error> {
        let names: Vec<String> = self.names.iter().chain(&self.name).cloned().collect();
        let args = self
            .args
            .iter()
            .flatten()
            .map(Argument::to_oci)
            .collect::<Result<Vec<_>, _>>()?;
        let mut rule = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action)
            .args(args);
        if let Some(errno) = self.errno_ret {
            rule = rule.errno_ret(errno);
        }
        rule.build()
            .map_err(|error| Error::Unsupported(error.to_string()))
    }
}

impl Argument {
    fn to_oci(&self) -> Result<LinuxSeccompArg, Error> {
        LinuxSeccompArgBuilder::default()
            .index(self.index)
            .value(self.value)
            .value_two(self.value_two)
            .op(self.op)
            .build()
            .map_err(|error| Error::Unsupported(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed(filter: &LinuxSeccomp, name: &str) -> bool {
        let rules = filter.syscalls().as_ref().unwrap();
        rules.iter().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.names().iter().any(|n| n == name)
        })
    }

    #[test]
    fn what_a_capability_opens_follows_the_capability() {
        let profile = Profile::parse(crate::DEFAULT_PROFILE).unwrap();
        let plain = profile.resolve(&[]).unwrap();
        assert!(allowed(&plain, "read") && !allowed(&plain, "bpf"));
        let admin = profile.resolve(&[Capability::SysAdmin]).unwrap();
        assert!(allowed(&admin, "bpf"));
    }

    #[test]
    fn a_profile_of_the_older_form_is_read() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"name":"read","action":"SCMP_ACT_ALLOW","args":[]}]}"#;
        assert!(allowed(
            &Profile::parse(text).unwrap().resolve(&[]).unwrap(),
            "read"
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Profile::parse(&bytes);
        }
    }
}
