//! Every command of docs/guides/containerd.md, as it stands there: what cannot be
//! had here (a registry, a build of its own) is named beside it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bulkhead_e2e::cri::ContainerConfig;
use bulkhead_e2e::{Answer, GuideCommand, Node, follow, guide, in_machine, program, write_program};

/// How long its container may take to begin.
const SERVING: Duration = Duration::from_secs(20);

/// What the container of the guide does.
const WEB: &str = "mkdir /etc/app; echo listen 80 > /etc/app/conf; echo serving; exec sleep 1000";

/// The commands of the guide.
const COMMANDS: [GuideCommand; 13] = [
    // The programs under test are built.
    ("cargo build --release", "test -x @BUILT/bulkhead", ""),
    (
        "install -m 755 target/release/bulkhead target/release/containerd-shim-bulkhead-v2 \
         /usr/local/bin/",
        "install -m 755 @BUILT/bulkhead @BUILT/containerd-shim-bulkhead-v2 @DIR/bin/",
        "",
    ),
    // There is no registry.
    (
        "ctr image pull docker.io/library/busybox:latest",
        "ctr image tag localhost/busybox:1 docker.io/library/busybox:latest",
        "busybox:latest",
    ),
    (
        "ctr run --rm --runtime io.containerd.bulkhead.v2 docker.io/library/busybox:latest demo \
         uname -r",
        "",
        "-bulkhead",
    ),
    ("bulkhead pods", "", "web"),
    ("bulkhead pods --timings", "", "kernel"),
    ("bulkhead ps default/web", "", "app"),
    // A terminal is had from script(1).
    (
        "bulkhead exec -it web/app sh",
        "printf 'uname -r\\nexit\\n' | script -qec 'bulkhead exec -it web/app sh' /dev/null",
        "-bulkhead",
    ),
    // Which goes on as long as the container does.
    (
        "bulkhead logs -f web/app",
        "timeout 2 bulkhead logs -f web/app || test $? = 124",
        "serving",
    ),
    (
        "bulkhead cp web/app:/etc/app ./",
        "bulkhead cp web/app:/etc/app ./ && cat app/conf",
        "listen 80",
    ),
    (
        "bulkhead debug web",
        "printf 'uname -r\\nexit\\n' | script -qec 'bulkhead debug web' /dev/null",
        "-bulkhead",
    ),
    // Its kernel says little.
    ("bulkhead debug --console web", "", "["),
    // A server, which is asked once. bash(1) connects by itself.
    (
        "bulkhead monitor",
        "timeout 10 bulkhead monitor & for try in $(seq 50); do \
         bash -c 'exec 3<>/dev/tcp/127.0.0.1/8090 && printf \"GET /metrics HTTP/1.0\\r\\n\\r\\n\" >&3 \
         && cat <&3' 2> /dev/null && break; sleep 0.1; done; kill $!",
        "pod_vcpus",
    ),
];

/// Runs a command on the node, where the guide's programs are found first.
fn run(node: &Node, command: &str) -> Answer {
    let dir = node.path().display();
    node.shell(&format!("cd {dir} && PATH={dir}/bin:$PATH && {command}"))
}

/// `ctr` as it is where there is one containerd.
fn tools(node: &Node) {
    let dir = node.path().join("bin");
    std::fs::create_dir(&dir).unwrap();
    let text = format!(
        "#!/bin/sh\nexec $(which -a ctr | sed -n 2p) --namespace k8s.io --address {} \"$@\"\n",
        node.path().join("containerd.sock").display()
    );
    write_program(&dir.join("ctr"), &text);
}

#[tokio::test]
async fn every_command_of_the_guide_does_what_it_says() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    tools(&node);
    let pod = node.pod("web").await;
    // Where the kubelet has it.
    std::fs::create_dir_all(node.path().join("logs/web/app")).unwrap();
    let log = |config: &mut ContainerConfig| config.log_path = "app/0.log".into();
    let app = pod.start_with("app", WEB, log).await.unwrap();
    // What it does first is done.
    app.says("stdout serving", SERVING).await;
    assert_eq!(app.exec("cat /etc/app/conf").await.out, "listen 80");
    let fill = |text: &str| {
        let built = program().parent().unwrap().display().to_string();
        text.replace("@BUILT", &built)
            .replace("@DIR", &node.path().display().to_string())
    };
    let told = guide("containerd");
    assert!(told.len() > 10, "{told:?}");
    follow(told, &COMMANDS, fill, |command| run(&node, command));
    pod.remove().await.unwrap();
}
