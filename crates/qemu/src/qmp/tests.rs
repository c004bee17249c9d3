use std::io::{BufRead, Read, Write};

use super::*;

/// A QEMU that has these answers, each with the id of its question in the
/// place of `ID`.
fn monitor(answers: &'static [&'static str]) -> Qmp {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut out = theirs.try_clone().unwrap();
        let mut lines = io::BufReader::new(theirs).lines();
        let version = r#"{"major":7,"minor":2,"micro":22}"#;
        writeln!(out, r#"{{"QMP":{{"version":{{"qemu":{version}}}}}}}"#).unwrap();
        for answer in answers {
            let question: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            let id = question["id"].to_string();
            writeln!(out, "{}", answer.replace("ID", &id)).unwrap();
        }
    });
    Qmp::new(ours).unwrap()
}

#[tokio::test]
async fn events_between_command_and_answer_are_skipped() {
    let mut qmp = monitor(&[
        r#"{"return":{},"id":ID}"#,
        "{\"event\":\"STOP\"}\n{\"return\":{\"fd\":7},\"id\":ID}",
    ]);
    let answer = qmp.ask("stop", json!({}), None).await.unwrap();
    assert_eq!(answer["fd"], 7);
}

#[tokio::test]
async fn any_number_of_events_does_not_keep_a_command_from_its_answer() {
    let (ours, mut theirs) = StdUnixStream::pair().unwrap();
    let mut qmp = Qmp::new(ours).unwrap();
    let told = tokio::task::spawn_blocking(move || {
        writeln!(
            theirs,
            r#"{{"QMP":{{"version":{{"qemu":{{"major":9,"minor":0,"micro":0}}}}}}}}"#
        )
        .unwrap();
        for _ in 0..10_000 {
            writeln!(theirs, r#"{{"event":"RTC_CHANGE","data":{{"offset":1}}}}"#).unwrap();
        }
        for id in 1..=2 {
            writeln!(theirs, r#"{{"return":{{}},"id":{id}}}"#).unwrap();
        }
        theirs
    });
    qmp.command("stop").await.unwrap();
    told.await.unwrap();
}

#[tokio::test]
async fn an_error_is_quoted() {
    let mut qmp = monitor(&[
        r#"{"return":{},"id":ID}"#,
        r#"{"error":{"desc":"not now"},"id":ID}"#,
    ]);
    let text = qmp.command("cont").await.unwrap_err().to_string();
    assert!(text.contains("cont") && text.contains("not now"), "{text}");
}

#[tokio::test]
async fn the_answer_to_a_command_that_was_given_up_is_nobodys() {
    let mut qmp = monitor(&[
        r#"{"return":{},"id":ID}"#,
        "{\"error\":{\"desc\":\"late\"},\"id\":1}\n{\"return\":{},\"id\":ID}",
    ]);
    qmp.command("cont").await.unwrap();
}

#[tokio::test]
async fn a_dead_monitor_is_an_error_not_a_hang() {
    let mut qmp = monitor(&[]);
    assert!(qmp.command("cont").await.is_err());
}

#[tokio::test]
async fn a_file_arrives_with_its_command() {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let mut qmp = Qmp::new(ours).unwrap();
    qmp.greeted = true;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, "what is on it").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let other = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let flags = rustix::net::RecvFlags::empty();
        rustix::net::recvmsg(&theirs, &mut parts, &mut control, flags).unwrap();
        let files = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.unwrap().next().unwrap();
        let mut text = String::new();
        std::fs::File::from(file).read_to_string(&mut text).unwrap();
        writeln!(&theirs, r#"{{"return":{{"fdset-id":3}},"id":1}}"#).unwrap();
        text
    });
    let answer = qmp.ask("add-fd", json!({}), Some(file.as_fd())).await;
    assert_eq!(answer.unwrap()["fdset-id"], 3);
    assert_eq!(other.await.unwrap(), "what is on it");
}
