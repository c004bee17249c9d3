//! Layers of overlayfs snapshots as images (`crates/layers`): found for a
//! container, and made for the next one when there were none.
//!
//! They are made by this program executed again, which has all the time of the
//! world: it runs when nobody else wants to, outlives the pod, and is not
//! accounted to it.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use bulkhead_config::Config;
use bulkhead_layers::{Bounds, Cache, Error, Found, Identity};
use bulkhead_sys::cgroup::Origin;
use bulkhead_sys::jail::Jail;

pub(crate) use bulkhead_config::LAYERS_PROGRAM as PROGRAM;

/// Where they are unless the configuration says otherwise.
const PLACE: &str = "/var/lib/bulkhead/layers";

/// Bytes of an order at most: 500 layers with the longest paths.
const ORDER_LIMIT: u64 = 500 * 4096;

/// Where images are, and how much room they have.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    place: PathBuf,
    mib: u64,
    reserve: u8,
}

/// What is known of a snapshot's layers.
#[derive(Debug)]
pub(crate) enum Known {
    /// The image of each, in the layers' order.
    Images(Vec<OwnedFd>),
    /// At least one can be made yet.
    Wanting,
    /// At least one can never be.
    Unfit,
}

impl Layers {
    /// None where none are wanted.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        (config.layers_mib > 0).then(|| Self {
            place: config.layers.clone().unwrap_or_else(|| PLACE.into()),
            mib: config.layers_mib,
            reserve: config.layers_reserve,
        })
    }

    /// Looks for the images of opened layers.
    pub(crate) fn find(&self, layers: &[OwnedFd]) -> Known {
        let cache = match Cache::open(&self.place) {
            Ok(cache) => cache,
            Err(error) => {
                tracing::warn!(
                    error = bulkhead_provision::chain(&error),
                    "layers are shared instead"
                );
                return Known::Unfit;
            }
        };
        let mut images = Vec::with_capacity(layers.len());
        let mut wanting = false;
        for layer in layers {
            match Identity::of(layer).map(|identity| cache.find(&identity)) {
                Some(Found::Image(image)) => images.push(image),
                Some(Found::Nothing) => wanting = true,
                Some(Found::Unfit) | None => return Known::Unfit,
            }
        }
        match wanting {
            true => Known::Wanting,
            false => Known::Images(images),
        }
    }

    /// Has images made of layers, some time. `origin` is where this process
    /// belonged before it became its pod's.
    pub(crate) fn order(
        &self,
        layers: &[PathBuf],
        origin: Option<&Origin>,
    ) -> std::io::Result<Ordered> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(PROGRAM)
            .arg(&self.place)
            .args([self.mib.to_string(), self.reserve.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let guard = Jail::detached().apply(&mut command);
        let child = command.spawn()?;
        drop(guard);
        let mut ordered = Ordered {
            child,
            order: order(layers),
        };
        // It does nothing before it has its order.
        if let Some(Err(error)) = origin.map(|origin| origin.take(ordered.child.id())) {
            ordered.order.clear();
            tracing::warn!(
                error = bulkhead_provision::chain(&error),
                "no images are made of layers"
            );
        }
        Ok(ordered)
    }
}

/// Whoever makes the images, before it knows which.
pub(crate) struct Ordered {
    child: Child,
    order: Vec<u8>,
}

impl Ordered {
    /// Tells which, and waits for the end. The pod may end before.
    pub(crate) fn see_through(mut self) {
        if let Some(mut input) = self.child.stdin.take() {
            // Nobody is there to read it any more: nothing is made.
            let _ = input.write_all(&self.order);
        }
        let _ = self.child.wait();
    }
}

/// Paths, each with a zero behind it.
fn order(layers: &[PathBuf]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for layer in layers {
        bytes.extend_from_slice(layer.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The program that makes images: which layers comes by standard input.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    match make(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {}", bulkhead_provision::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn make(mut words: impl Iterator<Item = OsString>) -> Result<(), Box<dyn std::error::Error>> {
    let place = PathBuf::from(words.next().ok_or("which directory?")?);
    let mut number = || {
        words
            .next()
            .and_then(|word| word.to_str()?.parse::<u64>().ok())
    };
    let limit = number().ok_or("how many MiB may it hold?")? << 20;
    let reserve = number().ok_or("how many percent stay free?")?;
    let bounds = Bounds {
        bytes: limit,
        reserve: u8::try_from(reserve)?,
        ..Bounds::default()
    };
    let mut order = Vec::new();
    std::io::stdin().take(ORDER_LIMIT).read_to_end(&mut order)?;
    bulkhead_sys::idle()?;
    make_all(&place, &order, bounds)
}

/// Makes the images of an order. One without layers is of a pod that died while
/// it gave it: this process may still be in the pod's control group then, which
/// cannot go before it, so it waits for nobody.
fn make_all(place: &Path, order: &[u8], bounds: Bounds) -> Result<(), Box<dyn std::error::Error>> {
    if order.is_empty() {
        return Ok(());
    }
    let cache = Cache::open(place)?;
    cache.alone()?;
    // What has no layer any more makes room first.
    cache.prune(bounds.bytes)?;
    for layer in order
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
    {
        let layer = PathBuf::from(OsString::from_vec(layer.to_vec()));
        if let Err(error) = cache.make(&layer, bounds) {
            report(&layer, &error);
        }
    }
    Ok(cache.prune(bounds.bytes)?)
}

/// A layer without an image is shared, as slow as before.
fn report(layer: &Path, error: &Error) {
    let chain = bulkhead_provision::chain(error);
    eprintln!(
        "{PROGRAM}: `{}` stays without an image: {chain}",
        layer.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_no_images() {
        let config = Config {
            layers_mib: 0,
            ..Config::default()
        };
        assert!(Layers::of(&config).is_none());
    }

    #[test]
    fn an_order_nobody_finished_waits_for_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let other = Cache::open(temp.path()).unwrap();
        other.alone().unwrap();
        let place = temp.path().to_owned();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let outcome = make_all(&place, &[], Bounds::default());
            done.send(outcome.is_ok()).unwrap();
        });
        assert!(
            ended
                .recv_timeout(std::time::Duration::from_secs(10))
                .unwrap()
        );
    }

    #[test]
    fn layers_are_images_when_each_has_one() {
        let temp = tempfile::tempdir().unwrap();
        let layer = temp.path().join("layer");
        std::fs::create_dir(&layer).unwrap();
        let config = Config {
            layers: Some(temp.path().join("images")),
            ..Config::default()
        };
        let layers = Layers::of(&config).unwrap();
        let opened = || vec![crate::rootfs::directory(&layer).unwrap()];
        assert!(matches!(layers.find(&opened()), Known::Wanting));
        let cache = Cache::open(&layers.place).unwrap();
        let bounds = Bounds {
            reserve: 0,
            ..Bounds::default()
        };
        cache.make(&layer, bounds).unwrap();
        match layers.find(&opened()) {
            Known::Images(images) => assert_eq!(images.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}
