//! From a configuration to a running sandbox.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_hypervisor::{Console, ExitReason, Hypervisor, Vm, VmConfig};
use bulkhead_protocol::agent::{ConfigureSandboxRequest, HelloRequest, HelloResponse};
use bulkhead_protocol::agent_ttrpc::AgentClient;
use bulkhead_protocol::mux::Opener;
use bulkhead_protocol::stream::Header;
use bulkhead_protocol::{READY, VERSION};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::error::{Phase, StartError};

/// Console lines quoted in an error.
const QUOTED_LINES: usize = 20;

/// What a sandbox is made of.
#[derive(Debug)]
pub struct SandboxConfig {
    /// The machine.
    pub vm: VmConfig,
    /// What the guest is told.
    pub guest: GuestConfig,
    /// How long each phase of the start may take.
    pub timeout: Duration,
}

/// Hostname, network and names of the guest: the agent's own message.
pub type GuestConfig = ConfigureSandboxRequest;

/// What the agent said of itself and its guest.
pub type Hello = HelloResponse;

/// How long a part of the start took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Name of the part, "kernel".
    pub phase: &'static str,
    /// How long.
    pub took: Duration,
}

/// A running sandbox. Dropping it ends the machine at once.
pub struct Sandbox {
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) agent: AgentClient,
    pub(crate) opener: Opener,
    hello: Hello,
    timings: Vec<Timing>,
    _end: End,
}

/// Ends the machine when it is dropped: with the sandbox, or with a start that is
/// given up, whatever else still knows the machine.
struct End(Arc<dyn Vm>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl Sandbox {
    /// Starts a sandbox and waits until its agent takes containers.
    ///
    /// # Errors
    /// [`StartError`]; the machine is gone then.
    pub async fn start(
        hypervisor: &dyn Hypervisor,
        config: SandboxConfig,
    ) -> Result<Self, StartError> {
        let mut clock = Clock::start();
        let SandboxConfig { vm, guest, timeout } = config;
        let mut vm = hypervisor
            .launch(vm)
            .await
            .map_err(|error| StartError::monitor(&error))?;
        let channel = vm.channel();
        let vm: Arc<dyn Vm> = Arc::from(vm);
        let end = End(Arc::clone(&vm));
        let steps = Steps {
            vm: Arc::clone(&vm),
            console: vm.console(),
            timeout,
        };
        clock.lap("vmm");

        let channel = steps.run(Phase::Kernel, wait_ready(channel)).await?;
        clock.lap("kernel");
        let (opener, drive) = Opener::drive(channel);
        tokio::spawn(end_with_channel(drive, Arc::clone(&vm)));
        let (agent, hello) = steps.run(Phase::Agent, greet(&opener)).await?;
        clock.lap("agent");
        let configure = async {
            vm.enclosed().await.map_err(|e| e.to_string())?;
            let context = ttrpc::context::with_duration(timeout);
            agent
                .configure_sandbox(context, &guest)
                .await
                .map_err(|e| e.to_string())
        };
        steps.run(Phase::Configure, configure).await?;
        clock.lap("configure");
        Ok(Self {
            vm,
            agent,
            opener,
            hello,
            timings: clock.timings,
            _end: end,
        })
    }

    /// Pid of the monitor on the host.
    pub fn vmm_pid(&self) -> u32 {
        self.vm.pid()
    }

    /// What the agent said when it was greeted.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// How long each part of the start took.
    pub fn timings(&self) -> &[Timing] {
        &self.timings
    }

    /// The guest console's last lines.
    pub fn console(&self) -> Console {
        self.vm.console()
    }

    /// Stops the vCPUs. The guest notices nothing but a jump of its clocks.
    ///
    /// # Errors
    /// When the monitor does not obey.
    pub async fn pause(&self) -> Result<(), bulkhead_hypervisor::Error> {
        self.vm.pause().await
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// When the monitor does not obey.
    pub async fn resume(&self) -> Result<(), bulkhead_hypervisor::Error> {
        self.vm.resume().await
    }

    /// Answers when the machine has ended.
    pub fn ended(&self) -> impl Future<Output = ExitReason> + Send + 'static {
        let vm = Arc::clone(&self.vm);
        async move { vm.exited().await }
    }

    /// Ends the machine: asks the agent to sync and reset, and does not wait
    /// longer than `grace` for it.
    pub async fn shut_down(&self, grace: Duration) -> ExitReason {
        let context = ttrpc::context::with_duration(grace);
        // The guest resets while answering, so the answer rarely comes.
        let request = bulkhead_protocol::agent::Empty::new();
        let ask = self.agent.shutdown(context, &request);
        let ended = tokio::time::timeout(grace, async { tokio::join!(ask, self.vm.exited()).1 });
        match ended.await {
            Ok(reason) => reason,
            Err(_) => {
                self.vm.kill();
                self.vm.exited().await
            }
        }
    }

    /// Ends the machine at once.
    pub fn kill(&self) {
        self.vm.kill();
    }
}

struct Steps {
    vm: Arc<dyn Vm>,
    console: Console,
    timeout: Duration,
}

impl Steps {
    /// Runs a step against the machine's death and the clock. A failed start
    /// waits for the monitor to be gone, so that nothing is left.
    async fn run<T>(
        &self,
        phase: Phase,
        step: impl Future<Output = Result<T, String>>,
    ) -> Result<T, StartError> {
        let error = tokio::select! {
            biased;
            outcome = tokio::time::timeout(self.timeout, step) => match outcome {
                Ok(Ok(value)) => return Ok(value),
                // A broken channel mostly is the machine's death, seen first.
                Ok(Err(reason)) => self.died_or(phase, reason).await,
                Err(_) => StartError::timeout(phase, self.timeout.as_secs(), self.lines()),
            },
            exit = self.vm.exited() => StartError::exited(phase, &exit, self.lines()),
        };
        self.vm.kill();
        self.vm.exited().await;
        Err(error)
    }

    async fn died_or(&self, phase: Phase, reason: String) -> StartError {
        let moment = Duration::from_millis(500);
        match tokio::time::timeout(moment, self.vm.exited()).await {
            Ok(exit) => StartError::exited(phase, &exit, self.lines()),
            Err(_) => StartError {
                phase,
                reason,
                console: self.lines(),
                hint: "",
            },
        }
    }

    fn lines(&self) -> Vec<String> {
        self.console.last(QUOTED_LINES)
    }
}

async fn wait_ready(channel: Option<StdUnixStream>) -> Result<UnixStream, String> {
    let channel = channel.ok_or("the monitor has no channel")?;
    channel.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut channel = UnixStream::from_std(channel).map_err(|e| e.to_string())?;
    match channel.read_u8().await {
        Ok(READY) => Ok(channel),
        Ok(byte) => Err(format!("the guest said {byte:#04x} instead of being ready")),
        Err(error) => Err(format!("the channel closed: {error}")),
    }
}

async fn greet(opener: &Opener) -> Result<(AgentClient, Hello), String> {
    let mut stream = opener.open().await.map_err(|e| e.to_string())?;
    Header::control()
        .write(&mut stream)
        .await
        .map_err(|e| e.to_string())?;
    let socket = ttrpc::r#async::transport::Socket::new(stream);
    let agent = AgentClient::new(ttrpc::r#async::Client::new(socket));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let request = HelloRequest {
        major: VERSION.0,
        minor: VERSION.1,
        realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(0),
        ..Default::default()
    };
    let hello = agent
        .hello(ttrpc::context::Context::default(), &request)
        .await;
    let hello = hello.map_err(|e| e.to_string())?;
    if hello.major != VERSION.0 {
        return Err(format!(
            "the guest image speaks protocol {}, this program {}; rebuild it: `bulkhead guest build`",
            hello.major, VERSION.0
        ));
    }
    Ok((agent, hello))
}

/// A machine whose channel broke can do nothing for anybody any more.
async fn end_with_channel(
    drive: impl Future<Output = Result<(), bulkhead_protocol::mux::MuxError>>,
    vm: Arc<dyn Vm>,
) {
    if let Err(error) = drive.await {
        tracing::debug!(%error, "the channel ended");
    }
    // The guest's own end closes the channel a moment before the monitor
    // exits; give it that moment so that the reason is the true one.
    let moment = Duration::from_secs(2);
    if tokio::time::timeout(moment, vm.exited()).await.is_err() {
        vm.kill();
    }
}

struct Clock {
    last: Instant,
    timings: Vec<Timing>,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            timings: Vec::new(),
        }
    }

    fn lap(&mut self, phase: &'static str) {
        self.timings.push(Timing {
            phase,
            took: self.last.elapsed(),
        });
        self.last = Instant::now();
    }
}
