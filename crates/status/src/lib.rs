//! What each pod of a host says of itself.
//!
//! The process of every pod listens on a socket in the pod's directory, and
//! answers whoever connects with one JSON document. Nobody has to be told that
//! a pod came or went: who wants to know looks when he wants to.
//!
//! ```text
//!   /run/bulkhead/pods/KEY/status ── connect ──▶ {"id": …, "containers": […]}
//! ```

mod find;
mod span;

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

pub use find::{FindError, Found, member, pod};
pub use span::{Context, SPAN_LIMIT, SPANS, Span, SpanId, TraceId};

/// The pods of this host; root's alone.
pub const ROOT: &str = "/run/bulkhead/pods";

/// Name of the socket in a pod's directory.
pub const SOCKET: &str = "status";

/// Largest answer read, bytes: what some hundreds of containers need.
pub const LIMIT: u64 = 1 << 20;

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pods asked at once.
const AT_ONCE: usize = 32;

/// A pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Its id in containerd.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// Whose it is in the cluster; none: nobody said.
    pub kubernetes: Option<Kubernetes>,
    /// "starting", "running" or "ended".
    pub state: State,
    /// Why it ended.
    pub reason: Option<String>,
    /// Seconds since the epoch when its process began.
    pub started: u64,
    /// vCPUs of its machine.
    pub vcpus: u32,
    /// Memory of its machine, bytes.
    pub memory: u64,
    /// What the host was told to need beside it, bytes; 0: nobody said.
    #[serde(default)]
    pub overhead: u64,
    /// Where the output of its containers is kept; none: nobody said.
    #[serde(default)]
    pub logs: Option<PathBuf>,
    /// Process id of the shim.
    pub shim_pid: u32,
    /// Process id of the monitor, while there is one.
    pub monitor_pid: Option<u32>,
    /// Parts of the start in their order, seconds.
    pub phases: Vec<(String, f64)>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Volumes that are disks of its machine, while it runs.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// Names in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its machine boots.
    Starting,
    /// Its machine runs.
    Running,
    /// Its machine is gone.
    Ended,
}

impl State {
    /// As people and metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its id in containerd.
    pub id: String,
    /// Its name in the pod; none: nobody said.
    pub name: Option<String>,
    /// The file its output is kept in; none: nobody said.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// "created", "running" or "stopped".
    pub state: String,
    /// Its exit code, once it has one.
    pub exit_code: Option<u32>,
    /// What it uses, while it runs.
    pub usage: Option<Usage>,
}

/// A volume that is a disk of the machine, and how full it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it is for the host, which does not mount it.
    pub path: PathBuf,
    /// Its room.
    pub bytes: Amount,
    /// Its files.
    pub inodes: Amount,
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// All of it.
    pub total: u64,
    /// What is used.
    pub used: u64,
    /// What anybody may use.
    pub available: u64,
}

/// What a container uses, counted in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, seconds.
    pub cpu_seconds: f64,
    /// Memory, bytes.
    pub memory: u64,
    /// Its limit, bytes; 0: none.
    pub memory_limit: u64,
    /// Processes.
    pub pids: u64,
    /// Processes the kernel killed for memory.
    pub oom_kills: u64,
}

/// A pod and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Its directory.
    pub dir: PathBuf,
    /// What it says of itself.
    pub pod: Pod,
}

/// Every pod below `root` that answers, in the order of their names. Those that
/// are about to go are left out.
///
/// # Errors
/// When `root` is there and cannot be read.
pub fn all(root: &Path) -> io::Result<Vec<Pod>> {
    let located = located(root)?;
    Ok(located.into_iter().map(|own| own.pod).collect())
}

/// The same, with their directories.
///
/// # Errors
/// When `root` is there and cannot be read.
pub fn located(root: &Path) -> io::Result<Vec<Located>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let mut pods = Vec::new();
    for some in dirs.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let ask = |dir: &'_ PathBuf| {
                let pod = ask(&dir.join(SOCKET)).ok()?;
                let dir = dir.clone();
                Some(Located { dir, pod })
            };
            let asked: Vec<_> = some
                .iter()
                .map(|own| scope.spawn(move || ask(own)))
                .collect();
            let answers = asked
                .into_iter()
                .filter_map(|own| own.join().ok().flatten());
            pods.extend(answers);
        });
    }
    pods.sort_by(|one: &Located, other| {
        let (one, other) = (&one.pod, &other.pod);
        (&one.kubernetes_name(), &one.id).cmp(&(&other.kubernetes_name(), &other.id))
    });
    Ok(pods)
}

impl Pod {
    fn kubernetes_name(&self) -> Option<(&str, &str)> {
        let own = self.kubernetes.as_ref()?;
        Some((&own.namespace, &own.name))
    }
}

/// Asks one pod.
///
/// # Errors
/// When nobody listens, or what comes is no status.
pub fn ask(socket: &Path) -> io::Result<Pod> {
    let stream = connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    stream.take(LIMIT).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

/// A full queue of a process that hangs must not hang the caller.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Who called listen(2) last on a socket: the kernel's word, of a process that
/// lives if nobody else holds the socket. unix(7), SO_PEERCRED.
///
/// # Errors
/// When nobody listens.
pub fn listener(socket: &Path) -> io::Result<Pid> {
    let stream = connect(socket)?;
    Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid)
}

/// Does nobody listen on a socket any more? One that only has not answered yet
/// is not dead.
pub fn is_dead(socket: &Path) -> bool {
    connect(socket).is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn pod(id: &str) -> Pod {
        Pod {
            id: id.to_owned(),
            namespace: "k8s.io".to_owned(),
            kubernetes: None,
            state: State::Running,
            reason: None,
            started: 1,
            vcpus: 1,
            memory: 1 << 29,
            overhead: 0,
            logs: None,
            shim_pid: 7,
            monitor_pid: Some(8),
            phases: vec![("kernel".to_owned(), 0.5)],
            containers: Vec::new(),
            volumes: Vec::new(),
        }
    }

    #[test]
    fn those_that_answer_sense_are_listed() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(all(&root.path().join("nowhere")).unwrap(), []);
        let listen = |name: &str| {
            std::fs::create_dir(root.path().join(name)).unwrap();
            UnixListener::bind(root.path().join(name).join(SOCKET)).unwrap()
        };
        let answers = [
            ("b", serde_json::to_vec(&pod("b")).unwrap()),
            ("a", serde_json::to_vec(&pod("a")).unwrap()),
            ("nonsense", b"{\"id\":".to_vec()),
            ("silent", Vec::new()),
        ];
        drop(listen("dead"));
        std::thread::scope(|scope| {
            for (name, answer) in &answers {
                let listener = listen(name);
                scope.spawn(move || listener.accept().unwrap().0.write_all(answer));
            }
            assert_eq!(all(root.path()).unwrap(), [pod("a"), pod("b")]);
        });
        assert!(is_dead(&root.path().join("dead").join(SOCKET)));
        assert!(!is_dead(&root.path().join("nowhere")));
    }
}
