//! What it all means.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::environment::Environment;
use super::mounts::{Asked, Volume};
use super::{ContainerOptions, SpecError, capabilities, defaults, mounts};

/// Period of the processor quota, microseconds; the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// A container as the supervisor needs it.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) spec: Spec,
    /// `user[:group]` for the guest to resolve; empty: root.
    pub(crate) user: String,
    pub(crate) volumes: Vec<Volume>,
    /// Bytes the container may use.
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Option<f64>,
    pub(crate) hostname: String,
    pub(crate) stop_signal: String,
    pub(crate) stop_timeout: u64,
    pub(crate) labels: BTreeMap<String, String>,
}

type Caller<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves what was said for a container with this short id.
pub(crate) fn resolve(
    options: &ContainerOptions,
    image: Option<&ImageConfiguration>,
    caller: Caller<'_>,
    short_id: &str,
) -> Result<Resolved, SpecError> {
    refuse(options)?;
    let image = image
        .and_then(|image| image.config().clone())
        .unwrap_or_default();
    let hostname = options
        .hostname
        .clone()
        .unwrap_or_else(|| short_id.to_owned());
    check_hostname(&hostname)?;
    let (list, volumes) = all_mounts(options)?;
    let security = Security::parse(options)?;
    let process = process(options, &image, caller, &hostname, &security)?;
    let seccomp = security.seccomp(&process)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(defaults::namespaces()?)
        .masked_paths(defaults::masked(options.privileged))
        .readonly_paths(defaults::read_only(options.privileged))
        .resources(resources(options)?)
        .sysctl(sysctls(&options.sysctl)?);
    if let Some(seccomp) = seccomp {
        linux = linux.seccomp(seccomp);
    }
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(options.read_only)
        .build()?;
    let spec = SpecBuilder::default()
        .version("1.2.0")
        .process(process)
        .root(root)
        .hostname(hostname.as_str())
        .mounts(list)
        .linux(linux.build()?)
        .build()?;
    let stop_signal = options
        .stop_signal
        .clone()
        .or_else(|| image.stop_signal().clone());
    Ok(Resolved {
        spec,
        user: options
            .user
            .clone()
            .or_else(|| image.user().clone())
            .unwrap_or_default(),
        volumes,
        memory: options.memory.map(|size| size.bytes()),
        cpus: options.cpus,
        hostname,
        stop_signal: stop_signal.unwrap_or_else(|| "TERM".to_owned()),
        stop_timeout: options.stop_timeout,
        labels: labels(options, image.labels().as_ref())?,
    })
}

fn refuse(options: &ContainerOptions) -> Result<(), SpecError> {
    if let Some(device) = options.device.first() {
        return Err(SpecError::Refused(format!(
            "--device {device}: a sandbox has its own kernel and no host devices; \
             --privileged gives all devices of the guest"
        )));
    }
    if options
        .cpus
        .is_some_and(|cpus| !cpus.is_finite() || cpus <= 0.0 || cpus > 1024.0)
    {
        let value = options.cpus.unwrap_or_default().to_string();
        return Err(SpecError::value("--cpus", &value, "write a number above 0"));
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<(), SpecError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        return Err(SpecError::value(
            "--hostname",
            name,
            "1 to 64 letters, digits, dots and dashes",
        ));
    }
    Ok(())
}

fn all_mounts(options: &ContainerOptions) -> Result<(Vec<Mount>, Vec<Volume>), SpecError> {
    let mut list = defaults::mounts(options.shm_size.bytes(), options.privileged)?;
    let mut volumes = Vec::new();
    for text in &options.volume {
        volumes.push(mounts::volume(text)?);
    }
    let mut asked = Vec::new();
    for text in &options.tmpfs {
        asked.push(mounts::tmpfs(text)?);
    }
    for text in &options.mount {
        match mounts::asked(text)? {
            Asked::Volume(volume) => volumes.push(volume),
            Asked::Mount(mount) => asked.push(mount),
        }
    }
    if options.read_only {
        // A read-only root with nowhere to write surprises most programs:
        // Podman's --read-only-tmpfs, its default.
        for target in ["/run", "/tmp", "/var/tmp"] {
            if asked
                .iter()
                .all(|mount| mount.destination() != &PathBuf::from(target))
            {
                asked.push(mounts::tmpfs(&format!("{target}:mode=1777"))?);
            }
        }
    }
    // What the user asks for replaces a default at the same place.
    list.retain(|mount| {
        asked
            .iter()
            .all(|other| other.destination() != mount.destination())
    });
    list.extend(asked);
    Ok((list, volumes))
}

fn process(
    options: &ContainerOptions,
    image: &oci_spec::image::Config,
    caller: Caller<'_>,
    hostname: &str,
    security: &Security,
) -> Result<Process, SpecError> {
    let mut environment = Environment::new(options.tty);
    for line in image.env().iter().flatten() {
        environment.add(line, &|_| None);
    }
    for path in &options.env_file {
        environment.add_file(path, caller)?;
    }
    for text in &options.env {
        environment.add(text, caller);
    }
    environment.set_default("HOSTNAME", hostname);
    let cwd = match &options.workdir {
        Some(dir) if dir.is_absolute() => dir.clone(),
        Some(dir) => {
            let text = dir.display().to_string();
            return Err(SpecError::value(
                "--workdir",
                &text,
                "write an absolute path",
            ));
        }
        None => image
            .working_dir()
            .as_deref()
            .filter(|dir| !dir.is_empty())
            .unwrap_or("/")
            .into(),
    };
    let set = capabilities::resolve(&options.cap_add, &options.cap_drop, options.privileged)?;
    let mut user = UserBuilder::default().uid(0u32).gid(0u32);
    user = user.additional_gids(options.group_add.clone());
    if let Some(mask) = &options.umask {
        let mask = u32::from_str_radix(mask, 8)
            .ok()
            .filter(|mask| *mask <= 0o777);
        let mask = mask.ok_or_else(|| {
            SpecError::value(
                "--umask",
                options.umask.as_deref().unwrap_or_default(),
                "write octal digits",
            )
        })?;
        user = user.umask(mask);
    } else {
        user = user.umask(0o022u32);
    }
    let mut process = ProcessBuilder::default()
        .terminal(options.tty)
        .user(user.build()?)
        .args(arguments(options, image)?)
        .env(environment.into_list())
        .cwd(cwd)
        .capabilities(capabilities::sets(&set)?)
        .rlimits(rlimits(options)?)
        .no_new_privileges(security.no_new_privileges);
    if let Some(score) = options.oom_score_adj {
        if !(-1000..=1000).contains(&score) {
            let text = score.to_string();
            return Err(SpecError::value(
                "--oom-score-adj",
                &text,
                "between -1000 and 1000",
            ));
        }
        process = process.oom_score_adj(score);
    }
    Ok(process.build()?)
}

fn arguments(
    options: &ContainerOptions,
    image: &oci_spec::image::Config,
) -> Result<Vec<String>, SpecError> {
    let mut arguments = match &options.entrypoint {
        // The image's command belongs to the image's entrypoint.
        Some(text) if text.is_empty() => Vec::new(),
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| vec![text.clone()]),
        None => image.entrypoint().clone().unwrap_or_default(),
    };
    if !options.command.is_empty() {
        arguments.extend(options.command.iter().cloned());
    } else if options.entrypoint.is_none() {
        arguments.extend(image.cmd().clone().unwrap_or_default());
    }
    if arguments.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(arguments)
    }
}

fn rlimits(options: &ContainerOptions) -> Result<Vec<PosixRlimit>, SpecError> {
    let one = |limit: &super::values::Ulimit| {
        Ok(PosixRlimitBuilder::default()
            .typ(limit.kind)
            .soft(limit.soft)
            .hard(limit.hard)
            .build()?)
    };
    options.ulimit.iter().map(one).collect()
}

fn resources(options: &ContainerOptions) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResourcesBuilder::default();
    if let Some(memory) = options.memory {
        let limit = i64::try_from(memory.bytes()).unwrap_or(i64::MAX);
        // No swap in the guest: limit and limit with swap are the same.
        resources = resources.memory(
            LinuxMemoryBuilder::default()
                .limit(limit)
                .swap(limit)
                .build()?,
        );
    }
    if options.cpus.is_some() || options.cpu_shares.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(cpus) = options.cpus {
            cpu = cpu
                .period(CPU_PERIOD)
                .quota((cpus * CPU_PERIOD as f64) as i64);
        }
        if let Some(shares) = options.cpu_shares {
            cpu = cpu.shares(shares);
        }
        resources = resources.cpu(cpu.build()?);
    }
    if options.privileged {
        // Every device, of the guest.
        let everything = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .access("rwm")
            .build()?;
        resources = resources.devices(vec![everything]);
    }
    if options.pids_limit > 0 {
        resources = resources.pids(
            LinuxPidsBuilder::default()
                .limit(options.pids_limit)
                .build()?,
        );
    }
    Ok(resources.build()?)
}

fn sysctls(list: &[String]) -> Result<HashMap<String, String>, SpecError> {
    let mut map = HashMap::new();
    for text in list {
        let wrong = || SpecError::value("--sysctl", text, "write NAME=VALUE");
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if key.is_empty() || key.contains("..") || !key.chars().all(fine) {
            return Err(wrong());
        }
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

fn labels(
    options: &ContainerOptions,
    image: Option<&HashMap<String, String>>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut labels: BTreeMap<String, String> = image
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for text in &options.label {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(SpecError::value("--label", text, "write KEY=VALUE"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// `--security-opt`.
#[derive(Debug, Default)]
struct Security {
    no_new_privileges: bool,
    profile: Option<String>,
    privileged: bool,
}

impl Security {
    fn parse(options: &ContainerOptions) -> Result<Self, SpecError> {
        let mut security = Self {
            privileged: options.privileged,
            ..Self::default()
        };
        for text in &options.security_opt {
            let (key, value) = text
                .split_once('=')
                .or_else(|| text.split_once(':'))
                .unwrap_or((text, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", value) if !value.is_empty() => {
                    security.profile = Some(value.to_owned());
                }
                ("apparmor" | "label", "unconfined" | "disable") => {}
                ("apparmor" | "label", _) => {
                    return Err(SpecError::Refused(format!(
                        "--security-opt {text}: the guest kernel has no AppArmor and no SELinux; \
                         the virtual machine itself is the boundary"
                    )));
                }
                ("mask" | "unmask", _) => {
                    return Err(SpecError::Refused(format!(
                        "--security-opt {text}: masked paths cannot be chosen one by one; \
                         --privileged masks none"
                    )));
                }
                _ => {
                    return Err(SpecError::value("--security-opt", text, "not understood"));
                }
            }
        }
        Ok(security)
    }

    fn seccomp(&self, process: &Process) -> Result<Option<LinuxSeccomp>, SpecError> {
        match self.profile.as_deref() {
            Some("unconfined") => Ok(None),
            Some(path) => {
                let path = PathBuf::from(path);
                let text = std::fs::read(&path).map_err(|source| SpecError::File {
                    path: path.clone(),
                    source,
                })?;
                crate::seccomp::profile(&text, process)
                    .map(Some)
                    .map_err(|problem| {
                        SpecError::value(
                            "--security-opt seccomp",
                            &path.display().to_string(),
                            problem,
                        )
                    })
            }
            None if self.privileged => Ok(None),
            None => crate::seccomp::default(process)
                .map(Some)
                .map_err(SpecError::Refused),
        }
    }
}

#[cfg(test)]
mod tests;
