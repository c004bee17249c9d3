//! Executes OCI hooks: programs of the host's, which are told of a container on their
//! standard input. OCI runtime spec, runtime.md, "State" and "Lifecycle".

use std::path::Path;
use std::process::Stdio;

use bulkhead_bundle::Hook;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::failure::{Failure, Outcome};

/// Bytes of a complaint that are kept.
const COMPLAINT_LIMIT: u64 = 4096;

/// What a hook is told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    /// What stands for the container on the host; its network namespace is the
    /// container's.
    pub(crate) pid: u32,
    /// The spec's word.
    pub(crate) status: &'static str,
}

/// Runs them one by one; the first that fails is the last.
pub(crate) async fn run(hooks: &[Hook], about: About<'_>) -> Outcome<()> {
    for hook in hooks {
        let done = tokio::time::timeout(hook.patience, run_one(hook, about)).await;
        let said = match done {
            Ok(Ok(())) => continue,
            Ok(Err(said)) => said,
            Err(_) => format!("it takes longer than {} s", hook.patience.as_secs()),
        };
        let path = hook.path.display();
        return Err(Failure::internal(format!("the OCI hook `{path}`: {said}")));
    }
    Ok(())
}

/// The same where a failure changes nothing any more.
pub(crate) async fn run_late(hooks: &[Hook], about: About<'_>) {
    for hook in hooks {
        if let Err(failure) = run(std::slice::from_ref(hook), about).await {
            tracing::warn!(id = about.id, %failure, "goes on without");
        }
    }
}

async fn run_one(hook: &Hook, about: About<'_>) -> Result<(), String> {
    let state = json!({
        "ociVersion": "1.2.0",
        "id": about.id,
        "status": about.status,
        "pid": about.pid,
        "bundle": about.bundle,
    });
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let pairs = hook.env.iter().filter_map(|line| line.split_once('='));
    command
        .env_clear()
        .envs(pairs)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to hear is no failure.
            let _ = stdin.write_all(state.to_string().as_bytes()).await;
        }
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut bounded = stderr.take(COMPLAINT_LIMIT);
            let _ = bounded.read_to_end(&mut said).await;
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let ((), said, ended) = tokio::join!(tell, hear, child.wait());
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}: {said}")),
        Err(error) => Err(error.to_string()),
    }
}
