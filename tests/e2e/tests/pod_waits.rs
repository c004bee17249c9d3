//! Who waits for whom in a pod: a process that cannot start yet holds up nobody
//! but whoever asked for it. Passes with runc too (`BULKHEAD_E2E_HANDLER=runc`).

use std::path::Path;
use std::time::Duration;

use bulkhead_e2e::Node;
use bulkhead_e2e::kubelet::{PodDir, mount, with_volumes};

/// What of this machine Perl needs.
const PERL: [&str; 3] = ["/usr/bin/perl", "/lib/x86_64-linux-gnu", "/lib64"];

/// How long a word may take under emulation.
const SOON: Duration = Duration::from_secs(30);

/// Holds a program by a lease: whoever opens it, as execve(2) does, waits until
/// the lease is given back, and the holder is told that somebody waits. Words in
/// the pipe say when to give it back and when to take it again; an end without a
/// word is of the writer before, who has not closed it yet. 1024 and 1 are
/// F_SETLEASE and F_WRLCK; fcntl(2).
const HOLD: &str = r#"
mkfifo /cache/go && cp /bin/busybox /cache/echo && exec perl -e '
    $| = 1;
    my $time = 1;
    $SIG{IO} = sub { print "wanted $time\n" };
    sub told {
        my ($pipe, $word);
        until (defined $word) { open($pipe, "<", "/cache/go") and $word = <$pipe> }
    }
    while (1) {
        open(my $program, "<", "/cache/echo") or die $!;
        fcntl($program, 1024, 1) or die $!;
        print "held $time\n";
        told();
        close $program;
        told();
        $time++;
    }
'"#;

#[tokio::test]
async fn a_process_that_cannot_start_yet_holds_up_nobody_else() {
    let mut kubelet = PodDir::new("patient");
    let cache = kubelet.tmpfs("empty-dir", "cache", "size=8m");
    let node = Node::start().await;
    let pod = node.pod("patient").await;
    let shared = || mount(&cache, "/cache", false);
    let mut mounts = vec![shared()];
    mounts.extend(PERL.map(|path| mount(Path::new(path), path, true)));
    let holder = pod.start_with("holder", HOLD, with_volumes(mounts));
    let holder = holder.await.unwrap();
    let other = pod.start_with("other", "sleep 1000", with_volumes(vec![shared()]));
    let other = other.await.unwrap();
    let go = "echo go > /cache/go";

    // A further process: neither the container it is for nor another waits.
    holder.says("stdout held 1", SOON).await;
    let meanwhile = async {
        holder.says("stdout wanted 1", SOON).await;
        assert_eq!(holder.exec("echo well").await.out, "well");
        assert_eq!(other.exec("echo well").await.out, "well");
        assert_eq!(other.exec(go).await.code, 0);
    };
    let executed = holder.run(&["/cache/echo", "executed"]);
    let (executed, ()) = tokio::join!(executed, meanwhile);
    assert_eq!(executed.unwrap().out, "executed");

    // A container's start: another is made, runs and ends meanwhile.
    let late = pod.create_with("late", "", |config| {
        config.command = vec!["/cache/echo".into(), "started".into()];
        config.mounts = vec![shared()];
    });
    let late = late.await.unwrap();
    assert_eq!(other.exec(go).await.code, 0);
    holder.says("stdout held 2", SOON).await;
    let meanwhile = async {
        holder.says("stdout wanted 2", SOON).await;
        assert_eq!(other.exec("echo well").await.out, "well");
        let fresh = pod.start("fresh", "echo fresh; exit 5").await;
        assert_eq!(fresh.ended().await.exit_code, 5);
        assert_eq!(fresh.log(), "stdout fresh\n");
        assert_eq!(other.exec(go).await.code, 0);
    };
    let (started, ()) = tokio::join!(late.start(), meanwhile);
    started.unwrap();
    assert_eq!(late.ended().await.exit_code, 0);
    assert_eq!(late.log(), "stdout started\n");
    pod.remove().await.unwrap();
    node.no_shims().await;
}
