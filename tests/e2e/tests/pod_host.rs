//! What a pod is on its host: where it is accounted for, and how it is reached.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use bulkhead_e2e::{Container, Node, PodGroup, in_machine};

#[tokio::test]
async fn a_pod_is_accounted_for_where_the_kubelet_looks() {
    let node = Node::start().await;
    let group = PodGroup::make(1 << 30);
    let parent = format!("/{}", group.name());
    let given = parent.clone();
    let pod = node
        .pod_with("accounted", |config| {
            config.linux.as_mut().unwrap().cgroup_parent = given;
        })
        .await
        .unwrap();
    let app = pod.start("app", "sleep 1000").await;
    assert_eq!(app.exec("echo well").await.out, "well");
    let inside = group.processes();
    assert!(!inside.is_empty());
    for own in node.monitors() {
        assert!(inside.contains(&own), "the monitor {own} is outside");
    }
    group.manager_reloads();
    assert!(group.counts_memory());
    assert_eq!(group.processes(), inside);
    pod.remove().await.unwrap();
    assert_eq!(group.children(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_group_too_small_for_a_machine_is_refused_and_nothing_is_killed() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let group = PodGroup::make(100 << 20);
    let parent = format!("/{}", group.name());
    let refused = node
        .pod_with("small", |config| {
            config.linux.as_mut().unwrap().cgroup_parent = parent;
        })
        .await;
    let text = refused.unwrap_err().message().to_owned();
    assert!(
        text.contains("leaves 36 MiB for the machine, which needs 128"),
        "{text}"
    );
    node.no_shims().await;
    assert!(node.monitors().is_empty());
    assert_eq!(group.children(), Vec::<PathBuf>::new());
}

/// Waits until somebody listens on a port.
async fn listens(container: &Container<'_>, port: u16) {
    let script = format!("until grep -q ':{port:04X} ' /proc/net/tcp; do sleep 0.1; done");
    assert_eq!(container.exec(&script).await.code, 0);
}

#[tokio::test]
async fn ports_of_the_pods_loopback_are_forwarded() {
    let node = Node::start().await;
    let pod = node.pod("forwarded").await;
    // Listens where nobody but the pod could connect to.
    let serve = "echo hi > /tmp/index.html; head -c 3000000 /dev/zero > /tmp/much; \
                 httpd -f -p 127.0.0.1:8080 -h /tmp";
    let app = pod.start("app", serve).await;
    listens(&app, 8080).await;
    for _ in 0..3 {
        let mut web = pod.forward(8080).await;
        web.send("GET /index.html HTTP/1.0\r\n\r\n");
        let answer = web.answer().unwrap();
        assert!(answer.ends_with("\r\n\r\nhi\n"), "{answer}");
    }
    // What comes back is whole, however much it is.
    let mut web = pod.forward(8080).await;
    web.send("GET /much HTTP/1.0\r\n\r\n");
    let answer = web.answer().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 3_000_000);
    // Where nobody listens somebody is told.
    let nobody = pod.forward(8081).await.answer().unwrap_err();
    assert!(nobody.contains("8081"), "{nobody}");
    assert_eq!(app.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
    node.no_shims().await;
}

/// What a GET of a path answers.
fn get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut connection = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn pods_say_how_they_are() {
    use std::io::{BufRead, BufReader};
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("told").await;
    let app = pod.start("app", "sleep 1000").await;

    let program = bulkhead_e2e::program();
    let list = std::process::Command::new(&program)
        .args(["pods", "--format", "json"])
        .output()
        .unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout).unwrap();
    let own = all.iter().find(|own| own["id"] == *pod.id).unwrap();
    assert_eq!(own["kubernetes"]["name"], "told");
    assert_eq!(
        (&own["state"], &own["vcpus"]),
        (&"running".into(), &1.into())
    );
    assert_eq!(own["monitor_pid"], node.monitor_of(&pod));
    let container = |id: &str| {
        let list = own["containers"].as_array().unwrap();
        list.iter().find(|own| own["id"] == id).unwrap().clone()
    };
    assert_eq!(container(&app.id)["name"], "app");
    assert!(container(&app.id)["usage"]["pids"].as_u64().unwrap() >= 1);

    let mut monitor = std::process::Command::new(&program)
        .args(["monitor", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(monitor.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let address = line.trim().trim_start_matches("listening on http://");
    let address = address.trim_end_matches("/metrics").to_owned();
    let text = get(&address, "/metrics");
    let has = |start: &str| {
        let own = |line: &&str| line.starts_with(start) && line.contains(&*pod.id);
        assert_eq!(text.lines().filter(own).count(), 1, "{start} in {text}");
    };
    has("bulkhead_pod_memory_bytes{");
    has("bulkhead_pod_overhead_bytes{");
    has("bulkhead_pod_monitor_resident_bytes{");
    has("bulkhead_container_memory_bytes{");
    assert!(get(&address, "/etc/passwd").starts_with("HTTP/1.1 404"));
    // Whoever is asked how it is goes on.
    assert_eq!(app.exec("echo well").await.out, "well");
    assert!(pod.is_ready().await);
    pod.remove().await.unwrap();
    assert!(!get(&address, "/metrics").contains("pod=\"told\""));
    let pid = monitor.id().to_string();
    bulkhead_e2e::tool("kill", &["-TERM", &pid]);
    assert!(monitor.wait().unwrap().success());
}
