//! In whose machine a container is: its own, or that of the container whose network it
//! shares, as in a pod of Podman's.

use super::bundle::{Bundle, Joined};
use super::place::{self, Place, Record};
use super::shim::Shim;
use super::{Error, runtime};

/// A container that runs, and what was written down of it.
struct Found {
    place: Place,
    record: Record,
}

/// The container of this runtime for which a process stands.
fn of_process(pid: u32) -> Result<Found, Error> {
    for id in place::ids()? {
        let Ok(place) = Place::find(&id) else {
            continue;
        };
        if let Ok(record) = place.record()
            && record.pid == pid
            && !place.has_ended()
        {
            return Ok(Found { place, record });
        }
    }
    Err(Error::Refused(format!(
        "the namespaces of the process {pid} cannot be joined: it stands for no container of this \
         runtime that runs; each machine has a kernel of its own"
    )))
}

/// Finds the machine whose namespaces are joined, and makes the bundle one of a
/// container in it. The place of the container whose machine it is.
pub(super) fn join(bundle: &mut Bundle, joined: &Joined) -> Result<Place, Error> {
    let host = of_process(joined.network)?;
    let machine = host.record.machine;
    let mut processes = None;
    for pid in &joined.all {
        let other = of_process(*pid)?;
        if other.record.machine != machine {
            return Err(Error::Refused(
                "the namespaces of containers of two machines cannot be joined".to_owned(),
            ));
        }
        if joined.processes == Some(*pid) {
            let shim = async { Shim::connect(&other.place).await?.told().await };
            processes = Some(runtime()?.block_on(shim)?);
        }
    }
    bundle.in_machine(&machine, processes);
    Place::find(&machine)
}
