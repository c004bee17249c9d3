//! The network of passt by IPv4 and IPv6, in a namespace with a cable whose far
//! end answers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Child, Command};

use bulkhead_e2e::{Answer, Host, image, tool};

/// A namespace whose default routes lead to another; removed at the end.
struct Lan {
    here: String,
    far: String,
}

impl Lan {
    fn new() -> Self {
        let id = std::process::id();
        let lan = Self {
            here: format!("bhl{id}"),
            far: format!("bhw{id}"),
        };
        for name in [&lan.here, &lan.far] {
            tool("ip", &["netns", "add", name]);
            tool("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        let cable = ["link", "add", "eth0", "netns", &lan.here, "type", "veth"];
        let peer = ["peer", "name", "eth0", "netns", &lan.far];
        tool("ip", &[&cable[..], &peer].concat());
        for (name, last) in [(&lan.here, 2), (&lan.far, 1)] {
            let ip = |args: &[&str]| tool("ip", &[&["-n", name], args].concat());
            ip(&["addr", "add", &format!("10.9.7.{last}/24"), "dev", "eth0"]);
            ip(&[
                "addr",
                "add",
                &format!("fd00:7::{last}/64"),
                "dev",
                "eth0",
                "nodad",
            ]);
            ip(&[
                "addr",
                "add",
                &format!("fe80::{last}/64"),
                "dev",
                "eth0",
                "nodad",
            ]);
            ip(&["link", "set", "eth0", "up"]);
        }
        for (family, by) in [("-4", "10.9.7.1"), ("-6", "fd00:7::1")] {
            let route = ["route", "add", "default", "via", by];
            tool("ip", &[&["-n", &lan.here, family][..], &route].concat());
        }
        lan
    }

    /// A command in one of the namespaces.
    fn command(name: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).args(args);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in [&self.here, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Answers one page to each who asks, by both families, until it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(lan: &Lan, dir: &std::path::Path) -> Server {
    std::fs::write(dir.join("index.html"), "far\n").unwrap();
    let dir = dir.display().to_string();
    let args = ["busybox", "httpd", "-f", "-p", "[::]:80", "-h", &dir];
    Server(Lan::command(&lan.far, &args).spawn().unwrap())
}

#[test]
fn both_families_lead_out_and_in() {
    let host = Host::new();
    let lan = Lan::new();
    let pages = tempfile::tempdir().unwrap();
    let _server = serve(&lan, pages.path());
    let program = bulkhead_e2e::program().display().to_string();
    let run = |args: &[&str]| -> Answer {
        let root = format!("BULKHEAD_ROOT={}", host.path().display());
        let words = ["env", &root, "BULKHEAD_ACCEL=tcg", &program];
        let args = [&words[..], args].concat();
        Answer::of(&mut Lan::command(&lan.here, &args))
    };
    let script = "ip addr show eth0; ip -6 route; wget -qO- http://10.9.7.1/; \
                  wget -qO- http://[fd00:7::1]/; \
                  mkdir /w; echo within > /w/index.html; httpd -p '[::]:80' -h /w; echo up; sleep 600";
    let image = image();
    let publish = ["--publish", "8080:80", "--publish", "[::1]:8081:80"];
    let start = ["run", "--detach", "--name", "both"];
    let command = [image.as_str(), "sh", "-c", script];
    let started = run(&[&start[..], &publish, &command].concat());
    assert_eq!(started.code, 0, "{started:?}");
    let logs = run(&[
        "exec",
        "both",
        "sh",
        "-c",
        "while ! netstat -ltn | grep -q :80; do sleep 0.1; done",
    ]);
    assert_eq!(logs.code, 0, "{logs:?}");
    let logs = run(&["logs", "both"]);
    assert!(logs.out.contains("fd62:756c:6b68::15"), "{logs:?}");
    assert_eq!(logs.out.matches("far\n").count(), 2, "{logs:?}");
    for url in [
        "http://127.0.0.1:8080/",
        "http://[::1]:8080/",
        "http://[::1]:8081/",
        "http://10.9.7.2:8080/",
        "http://[fd00:7::2]:8080/",
    ] {
        // The host's own from within, its addresses from the far end.
        let from = if url.contains("7") && !url.contains("127") {
            &lan.far
        } else {
            &lan.here
        };
        let args = ["timeout", "10", "busybox", "wget", "-qO-", url];
        let page = Answer::of(&mut Lan::command(from, &args));
        assert_eq!(page.out, "within", "{url}: {page:?}");
    }
    let refused = Lan::command(
        &lan.here,
        &["busybox", "wget", "-qO-", "http://127.0.0.1:8081/"],
    );
    assert!(!{ refused }.output().unwrap().status.success());
    assert_eq!(run(&["rm", "--force", "both"]).code, 0);
}
