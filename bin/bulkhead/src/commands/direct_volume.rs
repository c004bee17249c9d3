//! `bulkhead direct-volume`.

use std::path::Path;
use std::process::ExitCode;

use bulkhead_control::{Answer, Request};
use bulkhead_provision::direct;
use bulkhead_status::{Amount, Located, Volume};
use serde_json::{Value, json};

use super::target;
use crate::cli::DirectVolumeCommand;
use crate::report::{CommandError, Outcome};

/// Numbers of units. Kata's agent.proto, `VolumeUsage.Unit`.
const BYTES: u8 = 1;
const INODES: u8 = 2;

/// Runs a command about a volume that is a disk of a guest.
pub(super) fn run(command: &DirectVolumeCommand) -> Outcome {
    let root = Path::new(direct::ROOT);
    match command {
        DirectVolumeCommand::Add { volume, mount_info } => {
            direct::add(root, &volume.volume_path, mount_info)?;
        }
        DirectVolumeCommand::Remove(volume) => direct::remove(root, &volume.volume_path)?,
        DirectVolumeCommand::Stats(volume) => {
            let (_, own) = find(&volume.volume_path)?;
            println!("{}", usage(&own));
        }
        DirectVolumeCommand::Resize { volume, size } => resize(&volume.volume_path, *size)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The pod that uses a volume.
fn find(path: &Path) -> Result<(Located, Volume), CommandError> {
    let used = target::pods()?.into_iter().find_map(|own| {
        let volume = own.pod.volumes.iter().find(|volume| volume.path == path)?;
        let volume = volume.clone();
        Some((own, volume))
    });
    used.ok_or_else(|| {
        let path = path.display();
        CommandError::new(format!(
            "no running pod has `{path}` as a disk; `bulkhead pods --format json` shows whose \
             `volumes` there are"
        ))
    })
}

fn resize(path: &Path, bytes: u64) -> Result<(), CommandError> {
    let (pod, _) = find(path)?;
    let request = Request::GrowVolume {
        path: path.to_owned(),
        bytes,
    };
    match target::converse(&pod.dir)?.ask(request)? {
        Answer::Done => Ok(()),
        _ => Err(target::strange_answer()),
    }
}

/// What CSI's NodeGetVolumeStats wants, as `kata-runtime` prints it.
fn usage(volume: &Volume) -> Value {
    let one = |amount: Amount, unit| {
        json!({
            "available": amount.available, "total": amount.total, "used": amount.used, "unit": unit,
        })
    };
    json!({
        "usage": [one(volume.bytes, BYTES), one(volume.inodes, INODES)],
        "volume_condition": {"abnormal": false, "message": ""},
    })
}
