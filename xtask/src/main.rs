//! The only entry for people and CI: `cargo xtask --help`.

mod agent;
mod bench;
mod check;
mod demo;
mod deploy;
mod docker;
mod e2e_cluster;
mod fuzz;
mod guest;
mod images;
mod kubernetes;
mod lab;
mod next;
mod packages;
mod prerequisites;
mod rules;
mod run;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Tasks of the Bulkhead project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    /// Install missing Debian packages without asking
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run an image in its own kernel and show what that means
    Demo,
    /// Pass every test: installs what is missing, builds the guest, runs all
    Test,
    /// Format, lints, documentation
    Check,
    /// Measure starts, memory and throughput beside a bare boot and other runtimes
    Bench {
        /// Rounds; each runs everybody once
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// On real KVM and a clock that counts instructions, whatever the machine does
        #[arg(long)]
        lab: bool,
        /// The operator at a thousand nodes and the agent of one, and nothing else
        #[arg(long, conflicts_with = "lab")]
        operator: bool,
        /// Disks and the network of pods beside a bare machine's, and nothing else
        #[arg(long, conflicts_with_all = ["lab", "operator"])]
        io: bool,
        #[arg(long, hide = true)]
        prepared: bool,
    },
    /// Fuzz everything that reads what comes from outside
    Fuzz {
        /// One of fuzz/src/bin [default: all in turn]
        target: Option<String>,
        /// Time for each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run a command on this machine's files under a kernel that has real KVM
    ///
    /// What it writes is gone afterwards, but for target/lab/out.
    #[command(after_help = "Example: cargo xtask lab -- target/debug/bulkhead check")]
    Lab {
        /// Let its clock count instructions instead of time
        #[arg(long)]
        instruction_clock: bool,
        /// With systemd as its first process, and the command as a service
        #[arg(long)]
        systemd: bool,
        /// How long it may take
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on this machine's files where Debian's next release is installed
    ///
    /// As root. It is unpacked below target/next once, in two minutes.
    #[command(after_help = "Example: cargo xtask next -- target/debug/bulkhead check")]
    Next {
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Try the operator on the cluster of KUBECONFIG, and leave the cluster as it was
    #[command(
        after_help = "Example: cargo xtask e2e-cluster -- --operator-image REGISTRY/bulkhead-operator:0.1.0 \\\n    \
                      --node-agent-image REGISTRY/bulkhead-node-agent:0.1.0\n\
                      More: cargo xtask e2e-cluster -- --help"
    )]
    E2eCluster {
        /// Without a cluster: against the test API server, programs in place of images
        #[arg(long)]
        stand_in: bool,
        /// What is tried, and where
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Tell the same on Kubernetes itself: a cluster of one node, made here and ended
    ///
    /// As root. Kubernetes is compiled once, in about ten minutes.
    Kubernetes {
        /// Arguments of the story, as after `e2e-cluster --`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Have Kubernetes' own library judge the rules in CEL of deploy/
    ///
    /// As root. What it is compiled from is fetched once, 3 GB in five minutes.
    Rules,
    /// Make the chart, the OLM bundle and the list of images of the manifests in deploy/
    Deploy,
    /// Make container images of the operator and the node agent, as OCI layouts
    Images(images::Options),
    /// Build the guest into the cache and print where it is
    Guest {
        /// Which kernel
        #[arg(long, value_enum, default_value_t = Kernel::Tuned)]
        kernel: Kernel,
    },
}

/// Which guest kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// Compiled here: some minutes, once
    Tuned,
    /// Debian's cloud kernel: within a minute
    Distro,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let yes = cli.yes || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let outcome = match cli.task {
        Task::Demo => demo::run(yes),
        Task::Test => test::run(yes),
        Task::Check => check::run(),
        Task::Deploy => deploy::run(),
        Task::Rules => prerequisites::install(yes).and_then(|()| rules::run()),
        Task::E2eCluster { stand_in, args } => e2e_cluster::run(stand_in, &args),
        Task::Kubernetes { args } => kubernetes::run(yes, &args),
        Task::Images(options) => images::run(&options),
        Task::Fuzz { target, seconds } => {
            prerequisites::install(yes).and_then(|()| fuzz::run(target.as_deref(), seconds))
        }
        Task::Bench {
            rounds,
            lab,
            operator,
            io,
            prepared,
        } => {
            let options = bench::Options {
                rounds,
                lab,
                prepared,
                operator,
                io,
            };
            bench::run(yes, options)
        }
        Task::Lab {
            instruction_clock,
            systemd,
            minutes,
            command,
        } => lab::run(
            yes,
            lab::Options {
                instruction_clock,
                systemd,
                minutes,
            },
            &command,
        ),
        Task::Next { command } => prerequisites::install(yes)
            .and_then(|()| {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                next::TESTS.command(&words)
            })
            .and_then(|mut command| run::command(&mut command)),
        Task::Guest { kernel } => prerequisites::install(yes)
            .and_then(|()| guest::build(kernel))
            .map(|_| ()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
