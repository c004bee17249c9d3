use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// A QEMU that does everything but what contains `fails`, and tells what it was
/// asked.
fn monitor(fails: &'static str) -> (Qmp, Receiver<String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (tell, asked) = channel();
    let mut out = theirs.try_clone().unwrap();
    std::thread::spawn(move || {
        let version = r#"{"major":7,"minor":2,"micro":22}"#;
        writeln!(out, r#"{{"QMP":{{"version":{{"qemu":{version}}}}}}}"#).unwrap();
        for line in BufReader::new(theirs).lines() {
            let Ok(line) = line else { return };
            let question: Value = serde_json::from_str(&line).unwrap();
            let (name, arguments) = (&question["execute"], &question["arguments"]);
            let short = format!("{} {arguments}", name.as_str().unwrap());
            let answer = match !fails.is_empty() && short.contains(fails) {
                true => json!({"error": {"desc": "no"}, "id": question["id"]}),
                false => json!({"return": {"fdset-id": 5}, "id": question["id"]}),
            };
            if !short.starts_with("qmp_capabilities") {
                let _ = tell.send(short);
            }
            let _ = writeln!(out, "{answer}");
        }
    });
    (Qmp::new(ours).unwrap(), asked)
}

fn file() -> OwnedFd {
    tempfile::tempfile().unwrap().into()
}

fn spares(writable: usize, read_only: usize) -> Spares {
    Spares::new(SpareDisks {
        writable,
        read_only,
    })
}

/// The names of the commands that were asked.
fn names(asked: &Receiver<String>) -> Vec<String> {
    let names = asked.try_iter();
    names
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_disk_is_a_descriptor_in_a_place_of_its_kind() {
    let (mut qmp, asked) = monitor("");
    let mut spares = spares(2, 1);
    let serial = spares.plug(&mut qmp, &file(), true).await.unwrap();
    assert_eq!(serial, "spare2");
    let told: Vec<String> = asked.try_iter().collect();
    let all = told.join("\n");
    assert!(told[1].contains(r#""filename":"/dev/fdset/5""#), "{all}");
    assert!(told[1].contains(r#""driver":"file""#), "{all}");
    assert!(
        told[2].contains(r#""file":"spare2d","node-name":"spare2""#),
        "{all}"
    );
    assert_eq!(all.matches(r#""read-only":true"#).count(), 2, "{all}");
    assert!(told[3].starts_with("remove-fd"), "{all}");
}

#[tokio::test]
async fn a_place_is_another_disks_when_the_first_was_taken_away() {
    let (mut qmp, asked) = monitor("");
    let mut spares = spares(1, 0);
    let serial = spares.plug(&mut qmp, &file(), false).await.unwrap();
    let full = spares.plug(&mut qmp, &file(), false).await;
    let text = full.unwrap_err().to_string();
    assert!(text.contains("1 writable"), "{text}");
    assert!(spares.plug(&mut qmp, &file(), true).await.is_err());
    names(&asked);
    spares.unplug(&mut qmp, &serial).await.unwrap();
    let told: Vec<String> = asked.try_iter().collect();
    assert!(told[0].contains(r#""file":"spare0n""#), "{told:?}");
    assert!(told[1].contains(r#""node-name":"spare0d""#), "{told:?}");
    // Nothing is plugged in any more, and nothing is asked.
    spares.unplug(&mut qmp, &serial).await.unwrap();
    spares.unplug(&mut qmp, "writable").await.unwrap();
    assert!(names(&asked).is_empty());
    assert_eq!(spares.plug(&mut qmp, &file(), false).await.unwrap(), serial);
}

#[tokio::test]
async fn nothing_is_left_of_a_disk_that_could_not_be_plugged() {
    for (fails, asked_for) in [
        ("add-fd", &["add-fd"][..]),
        ("blockdev-add", &["add-fd", "blockdev-add", "remove-fd"]),
        (
            "blockdev-reopen",
            &[
                "add-fd",
                "blockdev-add",
                "blockdev-reopen",
                "blockdev-del",
                "remove-fd",
            ],
        ),
    ] {
        let (mut qmp, asked) = monitor(fails);
        let mut spares = spares(1, 0);
        let failed = spares.plug(&mut qmp, &file(), false).await;
        assert!(matches!(failed, Err(Error::Control { .. })), "{fails}");
        assert_eq!(names(&asked), asked_for, "{fails}");
        assert!(!spares.disks[0].taken, "{fails}");
    }
}

#[tokio::test]
async fn a_disk_that_could_not_be_taken_away_can_be_tried_again() {
    let (mut qmp, _asked) = monitor("blockdev-del");
    let mut spares = spares(1, 0);
    let serial = spares.plug(&mut qmp, &file(), false).await.unwrap();
    assert!(spares.unplug(&mut qmp, &serial).await.is_err());
    assert!(spares.plug(&mut qmp, &file(), false).await.is_err());
    assert!(spares.disks[0].taken);
}
