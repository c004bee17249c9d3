//! `delete`: takes away what a killed process left. containerd calls it when
//! the connection broke, and says what it hears to whoever asks.

use std::io::Write;

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message;

use crate::args::Args;
use crate::place::Place;
use crate::process;

/// Exit code of a container that lost its pod: killed.
const LOST: u32 = 137;

/// Why the answer could not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the answer could not be written")]
    Answer(#[from] protobuf::Error),
    #[error("the answer could not be written")]
    Output(#[from] std::io::Error),
}

/// The monitor and the file server died with the process; what outlives it is
/// its directory and the redirection of its network.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    Place::of(&args.namespace, &args.id).remove();
    let answer = DeleteResponse {
        pid: 0,
        exit_status: LOST,
        exited_at: Some(process::now()).into(),
        ..Default::default()
    };
    let bytes = answer.write_to_bytes()?;
    std::io::stdout().write_all(&bytes)?;
    Ok(())
}
