//! `bulkhead run`.

use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use bulkhead_sys::jail::Jail;

use super::{hidden, image, signal};
use crate::cli::{KernelChoice, LogDriver, PullPolicy, RunOptions};
use crate::client::{Client, Wanted, terminal_size};
use crate::report::{CommandError, Outcome};
use crate::spec::{self, Resolved};
use crate::state::record::{FORMAT, RootfsSource, VolumeRecord, now};
use crate::state::{ContainerDir, Record, Root, id};
use bulkhead_control::{Answer, Request, Socket};

/// Guest memory beside the container's limit: kernel, agent, page tables.
const GUEST_OVERHEAD: u64 = 64 << 20;

/// Guest memory when no limit is asked for. Only what is touched is taken
/// from the host.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// Smallest guest that boots with room for a shell, bytes.
const LEAST_MEMORY: u64 = 64 << 20;

/// Runs a container.
pub(super) fn run(root: &Root, mut options: RunOptions) -> Outcome {
    let began = Instant::now();
    let (source, image_config) = rootfs(root, &mut options)?;
    let image_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let id = id::random()?;
    options.container.command = std::mem::take(&mut options.words);
    let environment = |name: &str| std::env::var(name).ok();
    let resolved = spec::resolve(
        &options.container,
        image_config.as_ref(),
        &environment,
        id::short(&id),
    )?;
    let mut record = record(&options, id, source, resolved)?;
    record.image_micros = image_micros;
    for port in &options.publish {
        crate::supervisor::ports::parse(port).map_err(CommandError::new)?;
    }
    let dir = root.create(&record)?;
    if let Some(path) = &options.cidfile {
        write_cidfile(path, &record.id).inspect_err(|_| {
            let _ = root.remove(&dir);
        })?;
    }
    let socket = start_supervisor(root, &dir).inspect_err(|_| {
        let _ = root.remove(&dir);
    })?;
    let client = Client::new(socket);
    if options.detach {
        background(&client, &record, &dir, &options)
    } else {
        foreground(&client, &record, &dir, &options)
    }
}

fn foreground(
    client: &Client,
    record: &Record,
    dir: &ContainerDir,
    options: &RunOptions,
) -> Outcome {
    let wanted = Wanted {
        stdin: record.interactive,
        terminal: record.terminal,
        proxy_signals: options.sig_proxy,
    };
    let attachment = client.attach(wanted, Request::Attach)?;
    if let (true, Some((rows, columns))) = (record.terminal, terminal_size()) {
        let attached = Some(attachment.number());
        client.send(
            Request::Resize {
                attached,
                rows,
                columns,
            },
            &[],
        )?;
    }
    start(client, record)?;
    if options.timings {
        print_timings(dir);
    }
    client.run(attachment)
}

fn background(
    client: &Client,
    record: &Record,
    dir: &ContainerDir,
    options: &RunOptions,
) -> Outcome {
    start(client, record)?;
    if options.timings {
        print_timings(dir);
    }
    println!("{}", record.id);
    Ok(ExitCode::SUCCESS)
}

/// Lets the command run. Emulation is never silent: it is slow, and no boundary
/// to rely on.
fn start(client: &Client, record: &Record) -> Result<(), CommandError> {
    if record.accel != "tcg"
        && let Answer::Emulated(Some(reason)) = client.ask(Request::Emulated)?
    {
        eprintln!(
            "{} this host has no usable KVM, so the guest is emulated: many times slower, \
             and no security boundary\n  {reason}\n  (say --accel tcg to leave this out)",
            crate::style::warning("warning:")
        );
    }
    client.ask(Request::Start).map(drop)
}

fn rootfs(
    root: &Root,
    options: &mut RunOptions,
) -> Result<(RootfsSource, Option<oci_spec::image::ImageConfiguration>), CommandError> {
    if let Some(path) = &options.rootfs {
        let path = std::fs::canonicalize(path).map_err(|error| {
            CommandError::new(format!("the root filesystem `{}`: {error}", path.display()))
        })?;
        return Ok((RootfsSource::Directory(path), None));
    }
    if options.words.is_empty() {
        return Err(CommandError::new(
            "no image was named; write for example `bulkhead run --rm oci:./alpine uname -r`",
        ));
    }
    let reference = options.words.remove(0);
    let policy = match options.pull {
        PullPolicy::Missing => image::Policy::Missing,
        PullPolicy::Always => image::Policy::Always,
        PullPolicy::Never => image::Policy::Never,
    };
    let image = image::obtain(root, &reference, policy, options.registry)?;
    let source = RootfsSource::Image {
        reference,
        id: image.id.clone(),
        store: root.store(),
    };
    Ok((source, Some(image.config)))
}

fn record(
    options: &RunOptions,
    id: String,
    rootfs: RootfsSource,
    resolved: Resolved,
) -> Result<Record, CommandError> {
    let container = &options.container;
    let memory = guest_memory(resolved.memory)?;
    let volumes = resolved.volumes.into_iter().map(|volume| {
        Ok(VolumeRecord {
            source: std::path::absolute(volume.source)?,
            target: volume.target,
            read_only: volume.read_only,
            options: volume.options,
        })
    });
    Ok(Record {
        format: FORMAT,
        name: options.name.clone().unwrap_or_else(|| id::friendly(&id)),
        created: now(),
        rootfs,
        user: resolved.user,
        volumes: volumes.collect::<std::io::Result<_>>()?,
        memory,
        vcpus: options.vcpus.unwrap_or_else(|| vcpus(resolved.cpus)).max(1),
        storage: options.storage.bytes(),
        network: options.network.clone(),
        ports: options.publish.clone(),
        dns: options.dns.iter().map(ToString::to_string).collect(),
        hostname: resolved.hostname,
        extra_hosts: options
            .add_host
            .iter()
            .map(|line| host_line(line))
            .collect::<Result<_, _>>()?,
        labels: resolved.labels,
        terminal: container.tty,
        interactive: container.interactive,
        auto_remove: options.rm,
        stop_signal: signal::parse(&resolved.stop_signal)?,
        stop_timeout: resolved.stop_timeout,
        keep_log: options.log_driver == LogDriver::File,
        accel: format!("{:?}", options.accel).to_lowercase(),
        kernel: match options.kernel {
            KernelChoice::Auto => "auto",
            KernelChoice::Tuned => "tuned",
            KernelChoice::Distro => "distro",
        }
        .to_owned(),
        image_micros: 0,
        spec: resolved.spec,
        id,
    })
}

fn guest_memory(limit: Option<u64>) -> Result<u64, CommandError> {
    let Some(limit) = limit else {
        return Ok(DEFAULT_MEMORY);
    };
    let mebibyte = 1 << 20;
    let wanted = limit.saturating_add(GUEST_OVERHEAD).div_ceil(mebibyte) * mebibyte;
    if limit < 6 * mebibyte {
        return Err(CommandError::new(format!(
            "--memory {limit} is less than any program needs; the least is 6M"
        )));
    }
    let host = host_memory();
    if host != 0 && wanted > host {
        return Err(CommandError::new(format!(
            "--memory asks for {}, and this host has {} in all",
            crate::style::bytes(limit),
            crate::style::bytes(host)
        )));
    }
    Ok(wanted.max(LEAST_MEMORY))
}

fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// `--cpus 1.5` needs two virtual processors; without it one is enough until
/// somebody asks, and boots fastest.
fn vcpus(cpus: Option<f64>) -> u32 {
    let host = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    cpus.map_or(1, |cpus| cpus.ceil() as u32)
        .clamp(1, host.max(1))
}

fn host_line(text: &str) -> Result<String, CommandError> {
    let wrong = || CommandError::new(format!("--add-host `{text}` is not NAME:ADDRESS"));
    let (name, address) = text.split_once(':').ok_or_else(wrong)?;
    let address: std::net::IpAddr = address
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| wrong())?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong());
    }
    Ok(format!("{address} {name}"))
}

fn write_cidfile(path: &Path, id: &str) -> Result<(), CommandError> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| CommandError::new(format!("the id file `{}`: {error}", path.display())))?;
    Ok(file.write_all(id.as_bytes())?)
}

/// Starts the process behind the container. It holds the container's lock
/// from before it exists, so there is no moment without an owner.
fn start_supervisor(root: &Root, dir: &ContainerDir) -> Result<Socket, CommandError> {
    let lock: OwnedFd = dir
        .try_lock()?
        .ok_or_else(|| CommandError::new("a new container is locked already"))?;
    let (socket, creator) = Socket::pair()?;
    let mut jail = Jail::detached();
    let lock = jail.inherit(lock);
    let creator = jail.inherit(creator);
    let log = std::fs::File::create(dir.file("supervisor.log"))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0(hidden::SUPERVISOR)
        .args([root.path(), dir.path()])
        .args([lock.to_string(), creator.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let guard = jail.apply(&mut command);
    let spawned = command.spawn();
    drop(guard);
    spawned?;
    Ok(socket)
}

fn print_timings(dir: &ContainerDir) {
    let Ok(state) = dir.state() else { return };
    let total: u64 = state.timings.iter().map(|(_, micros)| micros).sum();
    let mut rows = vec![vec!["PHASE".to_owned(), "MS".to_owned()]];
    for (phase, micros) in state.timings.iter().chain([&("total".to_owned(), total)]) {
        rows.push(vec![
            phase.clone(),
            format!("{:.1}", *micros as f64 / 1000.0),
        ]);
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "{}", crate::style::table(&rows));
    if !err.is_terminal() {
        let _ = err.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_larger_than_the_containers_limit() {
        assert_eq!(guest_memory(None).ok(), Some(DEFAULT_MEMORY));
        assert_eq!(guest_memory(Some(256 << 20)).ok(), Some(320 << 20));
        assert!(guest_memory(Some(1 << 20)).is_err());
        assert!(guest_memory(Some(u64::MAX / 2)).is_err());
    }

    #[test]
    fn part_of_a_processor_is_one() {
        assert_eq!(vcpus(Some(0.5)), 1);
        assert_eq!(vcpus(None), 1);
    }

    #[test]
    fn extra_hosts_are_lines_of_a_hosts_file() {
        assert_eq!(host_line("db:10.0.0.1").unwrap(), "10.0.0.1 db");
        assert_eq!(host_line("db:[fe80::1]").unwrap(), "fe80::1 db");
        assert!(host_line("db:nowhere").is_err());
        assert!(host_line("a b:10.0.0.1").is_err());
    }
}
