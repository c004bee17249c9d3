//! A machine's life with Bulkhead: installed, changed, broken, killed, removed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use bulkhead_installer::runtime::RuntimeVersion;
use bulkhead_installer::{Error, Step, Verdict};
use support::Machine;

const CONFIG: &str = "# the administrator's\nversion = 2\n\
    [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\" # not ours\n\
    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.foreign]\n\
    runtime_type = \"io.containerd.foreign.v2\"";

fn machine() -> Machine {
    Machine::with(&[("etc/containerd/config.toml", CONFIG)])
}

#[test]
fn what_was_installed_is_gone_without_a_trace_after_removal() {
    let mut machine = machine();
    let before = machine.snapshot();
    let report = machine.install("one").unwrap();
    assert!(report.changed && report.restarted && report.tried == ["kata"]);
    assert_eq!(machine.verify().verdict, Verdict::Good);
    let config = machine.read("etc/containerd/config.toml");
    assert!(config.starts_with(CONFIG), "{config}");
    assert!(config.contains(&format!("versions/{}/containerd-shim", report.version)));
    assert!(machine.uninstall().unwrap().removed);
    assert_eq!(machine.snapshot(), before);
    assert!(!machine.uninstall().unwrap().removed);
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_machine_without_any_configuration_gets_back_none() {
    let mut machine = Machine::with(&[]);
    std::fs::remove_dir(machine.dir.path().join("opt")).unwrap();
    std::fs::create_dir_all(machine.dir.path().join("etc/containerd")).unwrap();
    let before = machine.snapshot();
    machine.install("one").unwrap();
    assert_eq!(machine.verify().verdict, Verdict::Good);
    machine.uninstall().unwrap();
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn the_same_again_changes_nothing_and_restarts_nothing() {
    let mut machine = machine();
    machine.install("one").unwrap();
    let before = machine.snapshot();
    let report = machine.install("one").unwrap();
    assert!(!report.changed && !report.restarted, "{report:?}");
    assert_eq!((machine.snapshot(), machine.fake.restarts), (before, 1));
}

#[test]
fn an_upgrade_keeps_the_version_before_and_no_older_one() {
    let mut machine = machine();
    let one = machine.install("one").unwrap();
    let two = machine.install("two").unwrap();
    assert_eq!(two.previous, Some(one.version.clone()));
    let three = machine.install("three").unwrap();
    assert_eq!(
        (three.previous, three.collected),
        (Some(two.version), vec![one.version])
    );
    assert_eq!(machine.verify().verdict, Verdict::Good);
}

#[test]
fn what_the_administrator_writes_meanwhile_stays() {
    let mut machine = machine();
    machine.install("one").unwrap();
    let path = machine.dir.path().join("etc/containerd/config.toml");
    let config = machine.read("etc/containerd/config.toml");
    let edited = config
        .replace("not ours", "mine")
        .replace("# END", "# changed\n# END");
    std::fs::write(&path, format!("{edited}[debug]\n")).unwrap();
    assert_eq!(machine.verify().verdict, Verdict::Unconfigured);
    machine.install("two").unwrap();
    assert!(
        !machine
            .read("etc/containerd/config.toml")
            .contains("# changed")
    );
    machine.uninstall().unwrap();
    let rest = machine.read("etc/containerd/config.toml");
    assert_eq!(
        rest,
        format!("{}[debug]\n", CONFIG.replace("not ours", "mine")).replace("\"[d", "\"\n[d")
    );
}

#[test]
fn drift_is_seen_and_healed() {
    let mut machine = machine();
    let version = machine.install("one").unwrap().version;
    let good = machine.snapshot();
    let dir = machine
        .dir
        .path()
        .join("opt/bulkhead/versions")
        .join(version.as_str());
    std::fs::write(dir.join("bulkhead"), "another").unwrap();
    std::fs::write(dir.join("more"), "").unwrap();
    let seen = machine.verify();
    assert_eq!(
        (seen.verdict, seen.findings.len()),
        (Verdict::Drifted, 2),
        "{seen:?}"
    );
    let report = machine.install("one").unwrap();
    assert!(report.changed && !report.restarted);
    assert_eq!(machine.snapshot(), good);
}

#[test]
fn a_pod_that_does_not_run_brings_back_what_was() {
    let mut machine = machine();
    let empty = machine.snapshot();
    machine.fake.pods_fail = true;
    let error = machine.install("one").unwrap_err();
    assert!(
        matches!(
            error,
            Error::RolledBack {
                version: None,
                restarted: true,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((machine.snapshot(), machine.fake.restarts), (empty, 2));

    machine.fake.pods_fail = false;
    let one = machine.install("one").unwrap().version;
    let good = machine.snapshot();
    machine.fake.pods_fail = true;
    let text = machine.install("two").unwrap_err().to_string();
    assert!(
        text.contains(one.as_str()) && text.contains("restarted again"),
        "{text}"
    );
    assert_eq!(machine.snapshot(), good);
    assert_eq!(machine.verify().verdict, Verdict::Failing);
}

/// A payload whose shim runs for as long as it is told.
fn runnable() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    support::payload::payload(dir.path(), "two");
    std::fs::copy("/bin/sleep", dir.path().join("containerd-shim-bulkhead-v2")).unwrap();
    dir
}

#[test]
fn a_version_that_pods_run_outlives_going_back_and_goes_with_them() {
    let mut machine = machine();
    let one = machine.install("one").unwrap().version;
    let wish = machine.wish(Some(RuntimeVersion(1, 6))).unwrap();
    machine.fake.pods_fail = true;
    machine.fake.pods_stay = true;
    let error = machine.install_from(runnable().path(), &wish).unwrap_err();
    assert!(
        matches!(&error, Error::RolledBack { version: Some(v), .. } if *v == one),
        "{error}"
    );
    machine.fake.pods_fail = false;
    machine.fake.pods_stay = false;
    let versions = |machine: &Machine| machine.tree().list("/opt/bulkhead/versions".as_ref());
    assert_eq!(versions(&machine).unwrap().unwrap().len(), 2);
    let report = machine.install("one").unwrap();
    assert_eq!(report.kept.len(), 1);
    assert!(matches!(machine.uninstall(), Err(Error::InUse(users)) if users.len() == 1));

    for mut shim in machine.fake.shims.drain(..) {
        shim.kill().unwrap();
        shim.wait().unwrap();
    }
    let report = machine.install("one").unwrap();
    assert_eq!(report.collected.len(), 1);
    assert_eq!(versions(&machine).unwrap().unwrap(), [one.as_str()]);
}

#[test]
fn a_configuration_the_runtime_reads_otherwise_is_taken_back_before_a_restart() {
    let had = || Ok(vec!["runc", "foreign"]);
    for (after, reason) in [
        (Ok(vec!["kata"]), "would have the handlers kata"),
        (had(), "has to have runc, foreign, kata"),
        (Err("line 3: no"), "line 3: no"),
    ] {
        let mut machine = machine();
        let before = machine.snapshot();
        machine.fake.readings = vec![had(), after];
        let error = machine.install("one").unwrap_err();
        let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        let said: Vec<String> = chain.map(ToString::to_string).collect();
        assert!(said.iter().any(|text| text.contains(reason)), "{said:?}");
        assert!(machine.snapshot() == before && machine.fake.restarts == 0);
    }
    let mut machine = machine();
    machine.fake.readings = vec![had(), Ok(vec!["foreign", "kata", "runc"])];
    machine.install("one").unwrap();
    machine.fake.readings = vec![had()];
    let seen = machine.verify();
    assert_eq!(seen.verdict, Verdict::Unconfigured, "{seen:?}");
}

#[test]
fn undoing_that_fails_too_says_both_and_is_finished_later() {
    let mut machine = machine();
    let before = machine.snapshot();
    machine.fake.failing_restarts = 2;
    let error = machine.install("one").unwrap_err();
    assert!(matches!(error, Error::Stuck { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("could not be restarted: it does not come up"),
        "{error}"
    );
    assert_eq!(machine.verify().verdict, Verdict::Unfinished);
    machine.uninstall().unwrap();
    assert_eq!(machine.snapshot(), before);
}

/// Every file the configuration names has to be there whole, at any time.
fn check_unmixed(machine: &Machine) {
    let config = machine.read("etc/containerd/config.toml");
    let paths = config.lines().filter_map(|line| line.split('"').nth(1));
    for path in paths.filter(|path| path.starts_with("/opt")) {
        let text = machine.read(path.trim_start_matches('/'));
        assert!(text.ends_with("one") || text.ends_with("two") || path.ends_with(".toml"));
    }
}

#[test]
fn a_first_installation_killed_at_any_step_is_finished_or_undone() {
    let mut clean = machine();
    let before = clean.snapshot();
    clean.install("one").unwrap();
    let installed = clean.snapshot();
    let steps = clean.fake.steps.len();
    assert!(steps > 8, "{:?}", clean.fake.steps);
    for at in 0..steps {
        let mut machine = machine();
        for again in [false, true] {
            machine.fake.stop_at = Some(at);
            assert!(matches!(machine.install("one"), Err(Error::Stopped(_))));
            check_unmixed(&machine);
            machine.fake.stop_at = None;
            if again {
                machine.install("one").unwrap();
                assert_eq!(
                    machine.snapshot(),
                    installed,
                    "installed again after step {at}"
                );
            } else {
                machine.uninstall().unwrap();
                assert_eq!(machine.snapshot(), before, "removed after step {at}");
            }
        }
    }
}

#[test]
fn an_upgrade_killed_at_any_step_is_finished_or_undone() {
    let mut clean = machine();
    let before = clean.snapshot();
    clean.install("one").unwrap();
    clean.install("two").unwrap();
    let upgraded = clean.snapshot();
    let steps = clean.fake.steps.clone();
    for (at, step) in steps.iter().enumerate() {
        let mut machine = machine();
        machine.install("one").unwrap();
        machine.fake.stop_at = Some(at);
        assert!(matches!(machine.install("two"), Err(Error::Stopped(_))));
        check_unmixed(&machine);
        machine.fake.stop_at = None;
        machine.install("two").unwrap();
        assert_eq!(
            machine.snapshot(),
            upgraded,
            "upgraded again after {step:?}"
        );
        machine.uninstall().unwrap();
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn a_removal_killed_at_any_step_is_finished() {
    let mut clean = machine();
    let before = clean.snapshot();
    clean.install("one").unwrap();
    clean.uninstall().unwrap();
    let steps = clean.fake.steps.clone();
    assert!(steps.contains(&Step::Renamed), "{steps:?}");
    for (at, step) in steps.iter().enumerate() {
        for install in [false, true] {
            let mut machine = machine();
            machine.install("one").unwrap();
            machine.fake.stop_at = Some(at);
            assert!(matches!(machine.uninstall(), Err(Error::Stopped(_))));
            machine.fake.stop_at = None;
            if install {
                machine.install("two").unwrap();
                assert_eq!(machine.verify().verdict, Verdict::Good);
            }
            machine.uninstall().unwrap();
            assert_eq!(machine.snapshot(), before, "after {step:?}");
        }
    }
}

#[test]
fn a_killed_rollback_is_finished() {
    let mut machine = machine();
    machine.install("one").unwrap();
    let good = machine.snapshot();
    machine.fake.pods_fail = true;
    machine.install("two").unwrap_err();
    let steps = machine.fake.steps.len();
    for at in 0..steps {
        machine.fake.stop_at = Some(at);
        let _ = machine.install("two");
        machine.fake.stop_at = None;
        machine.install("two").unwrap_err();
        assert_eq!(machine.snapshot(), good, "after step {at}");
    }
}

/// A small file system at the machine's `/opt`; unmounted at the end.
struct Mount(std::path::PathBuf);

impl Mount {
    /// `None` without the right to mount.
    fn at(machine: &Machine, options: &str) -> Option<Self> {
        let path = machine.dir.path().join("opt");
        let data = std::ffi::CString::new("size=256k").unwrap();
        let flags = match options {
            "ro" => rustix::mount::MountFlags::RDONLY,
            _ => rustix::mount::MountFlags::empty(),
        };
        match rustix::mount::mount("none", &path, "tmpfs", flags, data.as_c_str()) {
            Ok(()) => Some(Self(path)),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => None,
            Err(errno) => panic!("{errno}"),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.0, flags);
    }
}

/// Needs root, as every end-to-end test does.
#[test]
fn a_disk_that_is_full_or_read_only_leaves_the_machine_as_it_was() {
    for (options, reason) in [("", "No space left"), ("ro", "Read-only file system")] {
        let mut machine = machine();
        let Some(mount) = Mount::at(&machine, options) else {
            eprintln!("not checked: no right to mount");
            return;
        };
        let before = machine.snapshot();
        let payload = tempfile::tempdir().unwrap();
        support::payload::payload(payload.path(), "one");
        std::fs::write(payload.path().join("large"), vec![0; 1 << 20]).unwrap();
        let wish = machine.wish(Some(RuntimeVersion(1, 6))).unwrap();
        let error = machine.install_from(payload.path(), &wish).unwrap_err();
        let said: Vec<String> =
            std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
                .map(ToString::to_string)
                .collect();
        assert!(said.iter().any(|text| text.contains(reason)), "{said:?}");
        assert!(
            machine.snapshot() == before && machine.fake.restarts == 0,
            "{reason}"
        );
        drop(mount);
    }
}
