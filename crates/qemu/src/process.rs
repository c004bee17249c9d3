//! A running QEMU: its descriptors, its console, its end.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bulkhead_hypervisor::{
    Console, DiskSource, Error, ExitReason, Extent, NetBackend, Vm, VmConfig,
};
use bulkhead_sys::MountNamespace;
use bulkhead_sys::jail::Jail;
use rustix::fs::MemfdFlags;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{Mutex, Notify, watch};

use crate::accel::Accelerator;
use crate::args::{Machine, MachineDisk, MachineNet, MachineShare, NetFd, vmdk_descriptor};
use crate::find::Program;
use crate::qmp::Qmp;
use crate::spares::Spares;

/// Open files QEMU may have: its own few dozen, and two for each layer.
const FILE_LIMIT: u64 = 4096;

/// Standard error kept for a message, bytes.
const STDERR_LIMIT: usize = 4096;

pub(crate) struct Process {
    pid: u32,
    channel: Option<UnixStream>,
    console: Console,
    qmp: Arc<Mutex<Qmp>>,
    /// Locked before `qmp`, where both are.
    spares: Mutex<Spares>,
    enclosed: watch::Receiver<Option<Result<(), String>>>,
    program: String,
    exit: watch::Receiver<Option<ExitReason>>,
    killer: Arc<Killer>,
}

/// Asks the task that owns the child to kill it.
#[derive(Default)]
struct Killer {
    asked: AtomicBool,
    /// Why the machine must not go on.
    refusal: OnceLock<String>,
    wake: Notify,
}

impl Killer {
    fn kill(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

impl Process {
    /// Starts QEMU. Has to be called on a thread that lives as long as the
    /// machine: QEMU dies with it.
    pub(crate) fn start(
        program: &Program,
        accelerator: &Accelerator,
        config: VmConfig,
    ) -> Result<Self, Error> {
        let failed = |detail: &'static str| {
            let program = program.path().display().to_string();
            move |source: std::io::Error| Error::Start {
                program,
                detail: detail.to_owned(),
                source: Some(source),
            }
        };
        let (console, console_far) = UnixStream::pair().map_err(failed("no console socket"))?;
        let (qmp, qmp_far) = UnixStream::pair().map_err(failed("no control socket"))?;
        let (channel, channel_far) = UnixStream::pair().map_err(failed("no agent socket"))?;
        let mut jail = Jail::new();
        jail.no_new_privileges().limits(FILE_LIMIT);
        let isolated = config.user.is_some();
        if let Some((uid, gid)) = config.user {
            jail.user(uid, gid).isolate();
            if let Some(group) = accelerator
                .group()
                .map_err(failed("no way to `/dev/kvm`"))?
            {
                jail.group(group);
            }
        }
        let spares = Spares::new(config.spare_disks);
        let mut machine =
            inherit(config, &mut jail).map_err(failed("its files could not be prepared"))?;
        machine.spares = spares.kinds();
        machine.parallel = parallel(program, accelerator, &machine)?;
        machine.console = jail.inherit(console_far.into());
        machine.qmp = jail.inherit(qmp_far.into());
        machine.channel = jail.inherit(channel_far.into());
        machine.check()?;

        let mut child = spawn(program, machine.arguments(accelerator), jail)
            .map_err(failed("it could not be run"))?;
        let lines = Console::default();
        let console = async_stream(console).map_err(failed("no console socket"))?;
        tokio::spawn(read_console(console, lines.clone()));
        let stderr = child.stderr.take();
        let pid = child.id().unwrap_or_default();
        // While nobody can reap the child. One that ended at once is told of by
        // its exit, with its own words.
        let mounts = MountNamespace::of_child(pid);
        let (tell, exit) = watch::channel(None);
        let killer = Arc::new(Killer::default());
        let owner = own(child, stderr, program.clone(), Arc::clone(&killer), tell);
        tokio::spawn(owner);
        let qmp = Qmp::new(qmp).map_err(failed("no control socket"))?;
        let qmp = Arc::new(Mutex::new(qmp));
        let (done, enclosed) = watch::channel(None);
        let mounts = isolated.then_some(mounts);
        let greeting = greet(
            Arc::clone(&qmp),
            program.clone(),
            Arc::clone(&killer),
            mounts,
        );
        tokio::spawn(async move { done.send_replace(Some(greeting.await)) });
        Ok(Self {
            pid,
            channel: Some(channel),
            console: lines,
            qmp,
            spares: Mutex::new(spares),
            enclosed,
            program: program.path().display().to_string(),
            exit,
            killer,
        })
    }
}

/// The first words with QEMU, while the guest's kernel boots: one that is too
/// old ends; from another, which has opened all it needs, the host's files are
/// taken.
async fn greet(
    qmp: Arc<Mutex<Qmp>>,
    program: Program,
    killer: Arc<Killer>,
    mounts: Option<std::io::Result<MountNamespace>>,
) -> Result<(), String> {
    let version = qmp.lock().await.greet().await.map_err(|e| e.to_string())?;
    if let Err(error) = version.check(&program) {
        let _ = killer.refusal.set(error.to_string());
        killer.kill();
        return Err(error.to_string());
    }
    let Some(mounts) = mounts else {
        return Ok(());
    };
    let emptied = mounts.and_then(MountNamespace::empty_root);
    emptied.map_err(|e| e.to_string())
}

fn async_stream(stream: UnixStream) -> std::io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn spawn(program: &Program, arguments: Vec<String>, jail: Jail) -> std::io::Result<Child> {
    let mut command = std::process::Command::new(program.path());
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/");
    let guard = jail.apply(&mut command);
    let child = Command::from(command).kill_on_drop(true).spawn();
    drop(guard);
    child
}

/// May the machine's vCPUs run beside each other? The monitor is asked only where
/// it matters: it takes 15 ms.
fn parallel(
    program: &Program,
    accelerator: &Accelerator,
    machine: &Machine,
) -> Result<bool, Error> {
    match accelerator {
        Accelerator::Tcg { .. } if machine.all_vcpus() > 1 => {
            Ok(program.version()?.translates_in_parallel())
        }
        Accelerator::Tcg { .. } | Accelerator::Kvm { .. } => Ok(true),
    }
}

/// Moves every file of the configuration into the jail.
fn inherit(config: VmConfig, jail: &mut Jail) -> std::io::Result<Machine> {
    let mut disks = Vec::new();
    for disk in config.disks {
        let (file, extents) = match disk.source {
            DiskSource::File(file) => (jail.inherit(file), Vec::new()),
            DiskSource::Concat(extents) => concatenate(extents, jail)?,
        };
        disks.push(MachineDisk {
            serial: disk.serial,
            read_only: disk.read_only,
            file,
            extents,
        });
    }
    let nets = config.nets.into_iter().map(|net| MachineNet {
        mac: net.mac,
        mtu: net.mtu,
        fd: match net.backend {
            NetBackend::Stream(fd) => NetFd::Stream(jail.inherit(fd)),
            NetBackend::Tap(fds) => {
                NetFd::Tap(fds.into_iter().map(|fd| jail.inherit(fd)).collect())
            }
        },
    });
    let nets = nets.collect();
    let shares = config.shares.into_iter().map(|share| MachineShare {
        tag: share.tag,
        socket: jail.inherit(share.socket.into()),
    });
    let shares = shares.collect();
    Ok(Machine {
        kernel: jail.inherit(config.boot.kernel),
        initramfs: jail.inherit(config.boot.initramfs),
        cmdline: config.boot.cmdline,
        vcpus: config.vcpus,
        memory: config.memory,
        spare: config.spare,
        parallel: true,
        disks,
        nets,
        shares,
        spares: Vec::new(),
        console: -1,
        qmp: -1,
        channel: -1,
    })
}

fn concatenate(extents: Vec<Extent>, jail: &mut Jail) -> std::io::Result<(i32, Vec<i32>)> {
    let pieces: Vec<(i32, u64)> = extents
        .into_iter()
        .map(|extent| (jail.inherit(extent.file), extent.length))
        .collect();
    let descriptor = read_only_memfd(vmdk_descriptor(&pieces).as_bytes())?;
    Ok((
        jail.inherit(descriptor),
        pieces.into_iter().map(|(fd, _)| fd).collect(),
    ))
}

/// A file of these bytes that can only be read.
fn read_only_memfd(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("vmdk", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(bytes)?;
    // QEMU picks the descriptor of a set whose access mode fits, so the
    // read-only disk needs one opened read-only.
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file.as_fd())
    );
    Ok(std::fs::File::open(path)?.into())
}

async fn read_console(mut console: tokio::net::UnixStream, lines: Console) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = console.read(&mut buffer).await {
        lines.push(&buffer[..count]);
    }
}

/// Owns the child until it is reaped. The only place that kills and waits.
/// Why QEMU failed: what it said, or, of one that is too old to understand what
/// it was told, that.
async fn failure(program: Program, code: i32, said: String) -> ExitReason {
    let version = tokio::task::spawn_blocking(move || program.version()).await;
    let message = match version {
        Ok(Err(error)) => error.to_string(),
        _ => said,
    };
    ExitReason::Failed { code, message }
}

async fn own(
    mut child: Child,
    stderr: Option<ChildStderr>,
    program: Program,
    killer: Arc<Killer>,
    tell: watch::Sender<Option<ExitReason>>,
) {
    let last_words = tokio::spawn(read_stderr(stderr));
    let status = tokio::select! {
        status = child.wait() => status,
        () = killer.wake.notified() => {
            // It may have ended just now; wait tells either way.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    let said = last_words.await.unwrap_or_default();
    let reason = match (killer.refusal.get(), status) {
        (Some(text), _) => ExitReason::Failed {
            code: -1,
            message: text.clone(),
        },
        _ if killer.asked.load(Ordering::SeqCst) => ExitReason::KilledByUs,
        (_, Ok(status)) => match (status.code(), status.signal()) {
            (Some(0), _) => ExitReason::GuestStopped,
            (None, Some(signal)) => ExitReason::Signal(signal),
            (code, _) => failure(program, code.unwrap_or(-1), said).await,
        },
        (_, Err(error)) => ExitReason::Failed {
            code: -1,
            message: error.to_string(),
        },
    };
    tell.send_replace(Some(reason));
}

async fn read_stderr(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_LIMIT);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().replace('\n', "; ")
}

#[async_trait]
impl Vm for Process {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn channel(&mut self) -> Option<UnixStream> {
        self.channel.take()
    }

    fn console(&self) -> Console {
        self.console.clone()
    }

    async fn enclosed(&self) -> Result<(), Error> {
        let mut enclosed = self.enclosed.clone();
        let outcome = match enclosed.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err("the task that does it is gone".to_owned()),
        };
        outcome.map_err(|reason| Error::Start {
            program: self.program.clone(),
            detail: format!("the host's files could not be taken from it: {reason}"),
            source: None,
        })
    }

    async fn pause(&self) -> Result<(), Error> {
        self.qmp.lock().await.command("stop").await
    }

    async fn resume(&self) -> Result<(), Error> {
        self.qmp.lock().await.command("cont").await
    }

    async fn plug(&self, file: OwnedFd, read_only: bool) -> Result<String, Error> {
        let mut spares = self.spares.lock().await;
        let mut qmp = self.qmp.lock().await;
        spares.plug(&mut qmp, &file, read_only).await
    }

    async fn unplug(&self, serial: &str) -> Result<(), Error> {
        let mut spares = self.spares.lock().await;
        let mut qmp = self.qmp.lock().await;
        spares.unplug(&mut qmp, serial).await
    }

    async fn resize(&self, serial: &str, bytes: u64) -> Result<(), Error> {
        let spares = self.spares.lock().await;
        let mut qmp = self.qmp.lock().await;
        spares.resize(&mut qmp, serial, bytes).await
    }

    fn kill(&self) {
        self.killer.kill();
    }

    async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::KilledByUs),
            // The owning task is gone, and the child with it.
            Err(_) => ExitReason::KilledByUs,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.killer.kill();
    }
}
