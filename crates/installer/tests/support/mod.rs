//! A machine that is a directory, and the state of every file in it.

#[path = "payload.rs"]
pub(crate) mod payload;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bulkhead_installer::config::{self, Place};
use bulkhead_installer::handler::{Handler, HandlerName};
use bulkhead_installer::payload::Payload;
use bulkhead_installer::runtime::{Runtime, RuntimeVersion};
use bulkhead_installer::seams::{Reason, Smoke, Supervisor, Validator};
use bulkhead_installer::tree::Tree;
use bulkhead_installer::{Error, Node, Removal, Report, Step, Verification, Wish};

/// Counts restarts; fails them, and pods, when it is told to.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) restarts: usize,
    /// Restarts that fail, from the next one on.
    pub(crate) failing_restarts: usize,
    pub(crate) pods_fail: bool,
    /// Pods run the installed shim, and stay.
    pub(crate) pods_stay: bool,
    pub(crate) shims: Vec<std::process::Child>,
    pub(crate) steps: Vec<Step>,
    /// What the runtime reads from its configuration, each time it is asked;
    /// nothing: it is not asked.
    pub(crate) readings: Vec<Result<Vec<&'static str>, &'static str>>,
    /// Stop at the step with this number.
    pub(crate) stop_at: Option<usize>,
}

struct Readings<'a>(&'a mut Vec<Result<Vec<&'static str>, &'static str>>);

impl Validator for Readings<'_> {
    fn handlers(&mut self, _: &Tree, _: &Place) -> Result<Option<Vec<String>>, Reason> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let names = self.0.remove(0)?;
        Ok(Some(names.into_iter().map(str::to_owned).collect()))
    }
}

struct Restarts<'a>(&'a mut usize, &'a mut usize);

impl Supervisor for Restarts<'_> {
    fn restart(&mut self, _: Runtime) -> Result<(), Reason> {
        if *self.1 > 0 {
            *self.1 -= 1;
            return Err("it does not come up".into());
        }
        *self.0 += 1;
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for shim in &mut self.shims {
            let _ = shim.kill();
            let _ = shim.wait();
        }
    }
}

struct Pods<'a> {
    fail: bool,
    stay: bool,
    shim: std::path::PathBuf,
    shims: &'a mut Vec<std::process::Child>,
}

impl Smoke for Pods<'_> {
    fn run(&mut self, _: &HandlerName) -> Result<(), Reason> {
        if self.stay {
            let shim = std::process::Command::new(&self.shim).arg("1000").spawn();
            self.shims.push(shim?);
        }
        if self.fail {
            Err("it ends at once".into())
        } else {
            Ok(())
        }
    }
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) fake: Fake,
}

/// Everything below a directory: kind, mode, owner, contents.
pub(crate) type Snapshot = BTreeMap<String, String>;

impl Machine {
    /// With files: path and contents.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["opt", "run/lock"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self {
            dir,
            fake: Fake::default(),
        }
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::open(self.dir.path()).unwrap()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    fn node<T>(&mut self, act: impl FnOnce(&mut Node<'_>) -> T) -> T {
        let tree = self.tree();
        let shim = self
            .dir
            .path()
            .join("opt/bulkhead/current/containerd-shim-bulkhead-v2");
        let Fake {
            restarts,
            failing_restarts,
            pods_fail,
            pods_stay,
            shims,
            steps,
            readings,
            stop_at,
        } = &mut self.fake;
        steps.clear();
        act(&mut Node {
            tree,
            proc: "/proc".into(),
            supervisor: &mut Restarts(restarts, failing_restarts),
            validator: &mut Readings(readings),
            smoke: Some(&mut Pods {
                fail: *pods_fail,
                stay: *pods_stay,
                shim,
                shims,
            }),
            ending: Duration::ZERO,
            observer: &mut |step| {
                steps.push(step);
                if stop_at.is_some_and(|at| steps.len() > at) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        })
    }

    /// What the handler `kata` needs here.
    pub(crate) fn wish(&self, version: Option<RuntimeVersion>) -> Result<Wish, Error> {
        let tree = self.tree();
        let runtime = config::detect(&tree)?;
        let name = HandlerName::try_from("kata".to_owned())?;
        let place = config::place(&tree, runtime, version)?;
        Ok(Wish {
            handlers: vec![Handler::new(name)],
            place,
        })
    }

    pub(crate) fn install(&mut self, mark: &str) -> Result<Report, Error> {
        let wish = self.wish(Some(RuntimeVersion(1, 6)))?;
        self.install_as(mark, &wish)
    }

    pub(crate) fn install_as(&mut self, mark: &str, wish: &Wish) -> Result<Report, Error> {
        let dir = tempfile::tempdir().unwrap();
        payload::payload(dir.path(), mark);
        self.install_from(dir.path(), wish)
    }

    pub(crate) fn install_from(&mut self, dir: &Path, wish: &Wish) -> Result<Report, Error> {
        let mut payload = Payload::directory(dir, "1.0")?;
        self.node(|node| node.install(&mut payload, wish))
    }

    pub(crate) fn uninstall(&mut self) -> Result<Removal, Error> {
        self.node(|node| node.uninstall(false))
    }

    pub(crate) fn verify(&mut self) -> Verification {
        self.node(|node| node.verify()).unwrap()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::new();
        look(self.dir.path(), Path::new(""), &mut found);
        found
    }
}

fn look(root: &Path, path: &Path, found: &mut Snapshot) {
    let full = root.join(path);
    let meta = std::fs::symlink_metadata(&full).unwrap();
    let what = if meta.is_dir() {
        for entry in std::fs::read_dir(&full).unwrap() {
            look(root, &path.join(entry.unwrap().file_name()), found);
        }
        String::new()
    } else if meta.is_symlink() {
        std::fs::read_link(&full).unwrap().display().to_string()
    } else {
        String::from_utf8_lossy(&std::fs::read(&full).unwrap()).into_owned()
    };
    let head = format!("{:o} {} {}", meta.mode(), meta.uid(), meta.gid());
    found.insert(path.display().to_string(), format!("{head} {what}"));
}
