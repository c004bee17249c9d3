//! A container's life through the verbs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use bulkhead_e2e::{Host, image};

const SERVER: &str =
    "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 1000 & wait $!; done";

#[test]
fn a_background_container_is_listed_executed_in_stopped_and_removed() {
    let host = Host::new();
    host.start("web", &["--network", "none"], SERVER);
    assert!(host.bulkhead(&["ps"]).out.contains("web"));
    let exec = host.bulkhead(&["exec", "-e", "A=1", "web", "sh", "-c", "echo $A $$; exit 9"]);
    assert_eq!(exec.code, 9, "{exec:?}");
    assert!(exec.out.starts_with("1 "), "{exec:?}");
    assert_eq!(host.bulkhead(&["exec", "web", "nosuch"]).code, 127);
    let refused = host.bulkhead(&["rm", "web"]);
    assert!(refused.err.contains("--force"), "{refused:?}");

    assert_eq!(host.bulkhead(&["stop", "web"]).code, 0);
    assert_eq!(host.state("web")["exit_code"], 3);
    assert_eq!(host.bulkhead(&["logs", "web"]).out, "up\nbye");
    assert_eq!(host.bulkhead(&["wait", "web"]).out, "3");
    assert_eq!(host.bulkhead(&["rm", "web"]).code, 0);
    assert!(host.leftovers().is_empty());
}

#[test]
fn a_hundred_execs_leave_nothing_behind() {
    let host = Host::new();
    host.start("web", &["--network", "none"], SERVER);
    for number in 0..100 {
        let answer = host.bulkhead(&["exec", "web", "echo", &number.to_string()]);
        assert_eq!(
            (answer.code, answer.out),
            (0, number.to_string()),
            "{}",
            answer.err
        );
    }
    let left = host.bulkhead(&["top", "web"]).out;
    // The shell and its sleep.
    assert_eq!(left.lines().count(), 2, "{left}");
}

#[test]
fn one_name_has_one_container() {
    let host = Host::new();
    host.start("web", &["--network", "none"], SERVER);
    let second = host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        &image(),
        "true",
    ]);
    assert_eq!(second.code, 125);
    assert!(
        second.err.contains("in use") && second.err.contains("bulkhead rm web"),
        "{second:?}"
    );
}

#[test]
fn a_paused_container_stands_still() {
    let host = Host::new();
    host.start(
        "web",
        &["--network", "none"],
        "while true; do echo x; sleep 0.05; done",
    );
    assert_eq!(host.bulkhead(&["pause", "web"]).code, 0);
    assert_eq!(host.state("web")["status"], "paused");
    assert_eq!(host.bulkhead(&["unpause", "web"]).code, 0);
    assert_eq!(host.bulkhead(&["exec", "web", "true"]).code, 0);
}

#[test]
fn logs_can_be_followed_to_the_end() {
    let host = Host::new();
    host.start(
        "web",
        &["--network", "none"],
        "for i in 1 2 3; do echo $i; sleep 0.2; done",
    );
    let answer = host.bulkhead(&["logs", "--follow", "web"]);
    assert_eq!(answer.out, "1\n2\n3");
}

#[test]
fn signals_reach_the_container_through_the_foreground() {
    let host = Host::new();
    let image = image();
    let mut child = host
        .command(&[
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            SERVER,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    bulkhead_e2e::tool("kill", &["-TERM", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_published_port_leads_into_the_container() {
    let host = Host::new();
    // A port nobody has; the listener frees it.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("127.0.0.1:{port}:80");
    host.start(
        "web",
        &["--publish", &publish],
        "mkdir /w; echo served > /w/index.html; httpd -p 80 -h /w; echo listening; sleep 1000",
    );
    let mut follow = host
        .command(&["logs", "--follow", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(follow.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "listening\n");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.ends_with("served\n"), "{page}");
    host.bulkhead(&["rm", "--force", "web"])
        .code
        .eq(&0)
        .then_some(())
        .unwrap();
    let _ = follow.wait();
}

#[test]
fn a_port_in_use_is_named() {
    let host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:80");
    let answer = host.bulkhead(&["run", "--rm", "--publish", &publish, &image(), "true"]);
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(answer.err.contains(&port.to_string()), "{answer:?}");
}

#[test]
fn what_happens_is_told_and_what_is_used_is_counted() {
    let host = Host::new();
    let mut watcher = host
        .command(&["events", "--follow", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    host.start("web", &["--network", "none"], "sleep 1000");
    assert_eq!(host.exec("web", "true").code, 0);
    let stats = host.bulkhead(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats.out).unwrap();
    let own = &stats[0];
    assert_eq!(
        (&own["name"], &own["pids"]),
        (&"web".into(), &1.into()),
        "{own}"
    );
    assert!(own["memory_bytes"].as_u64().unwrap() > 0, "{own}");
    assert_eq!(host.bulkhead(&["kill", "web"]).code, 0);
    assert_eq!(host.bulkhead(&["wait", "web"]).out, "137");
    assert_eq!(host.bulkhead(&["rm", "web"]).code, 0);

    let out = BufReader::new(watcher.stdout.take().unwrap());
    let mut actions = Vec::new();
    for line in out.lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(event["name"], "web", "{event}");
        actions.push(event["action"].as_str().unwrap().to_owned());
        if event["action"] == "remove" {
            break;
        }
    }
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    assert_eq!(
        actions,
        ["create", "start", "exec", "kill", "die", "remove"]
    );
}
