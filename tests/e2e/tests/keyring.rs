//! Keys a container's processes add are the container's.

use bulkhead_e2e::Host;

/// Prints the serial number and the description of the session keyring.
/// keyctl(2), KEYCTL_GET_KEYRING_ID and KEYCTL_DESCRIBE; number 250 on x86-64.
const TELL: &str = "perl -e 'my $text = \" \" x 200; my $length = syscall(250, 6, -3, $text, 200); \
                    print syscall(250, 0, -3, 0), \" \", substr($text, 0, $length - 1)'";

#[test]
fn a_further_process_shares_the_session_keyring_of_its_container_only() {
    let host = Host::with_software();
    let first = format!("{TELL} > /told; sleep 600");
    // The default seccomp profile lets nobody use keys.
    let options = ["--privileged", "--network", "none"];
    host.start("keys", &options, &first);
    let read = "while ! test -s /told; do sleep 0.1; done; cat /told";
    let told = host.exec("keys", read).out;
    let name = told.rsplit(';').next().unwrap_or_default();
    assert!(name.starts_with("_ses."), "{told}");
    let again = host.bulkhead(&["exec", "--privileged", "keys", "sh", "-c", TELL]);
    assert_eq!(again.out, told, "{again:?}");
    let other = host.bulkhead(&[
        "exec",
        "--privileged",
        "--user",
        "1000",
        "keys",
        "sh",
        "-c",
        TELL,
    ]);
    assert_eq!(other.out, told, "{other:?}");
}
