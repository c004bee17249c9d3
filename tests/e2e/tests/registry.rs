//! Images from a real registry on loopback.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bulkhead_e2e::{Answer, Host, image, tool};

/// A registry; it ends with the test.
struct Registry {
    dir: tempfile::TempDir,
    child: Child,
    address: String,
}

/// What a registry asks for.
#[derive(Default)]
struct Asks {
    password: bool,
    tls: bool,
}

impl Registry {
    /// Starts one that holds the test image as `box:v1`.
    fn start(asks: &Asks) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nstorage: {{filesystem: \
             {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            at("data")
        );
        if asks.tls {
            certificate(dir.path());
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                at("cert.pem"),
                at("key.pem")
            );
        }
        if asks.password {
            // bcrypt of "secret".
            let line = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
            std::fs::write(at("htpasswd"), line).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
                at("htpasswd")
            );
        }
        std::fs::write(at("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is there: `apt install docker-registry`");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .find_map(|line| {
                let line = line.unwrap();
                let rest = line.split_once("listening on ")?.1.to_owned();
                Some(rest.split(['"', ',', ' ']).next()?.to_owned())
            })
            .unwrap();
        // Read on, so that the registry never blocks.
        std::thread::spawn(move || lines.count());
        let registry = Self {
            dir,
            child,
            address,
        };
        registry.push("box:v1", "oci", asks);
        registry
    }

    /// Pushes the test image under a name.
    fn push(&self, name: &str, format: &str, asks: &Asks) {
        let target = format!("docker://{}/{name}", self.address);
        let mut args = vec![
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "--format",
            format,
        ];
        if asks.password {
            args.extend(["--dest-creds", "user:secret"]);
        }
        let source = image();
        args.extend([source.as_str(), &target]);
        tool("skopeo", &args);
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Puts a manifest by hand.
    fn put(&self, tag: &str, kind: &str, body: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "PUT /v2/box/manifests/{tag} HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: \
             {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 201 "), "{answer}");
    }

    /// Digest of what a tag means.
    fn digest(&self, tag: &str) -> String {
        let path =
            format!("data/docker/registry/v2/repositories/box/_manifests/tags/{tag}/current/link");
        std::fs::read_to_string(self.dir.path().join(path)).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an authority `ca.pem` and a certificate of it for loopback.
fn certificate(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    let request = |key: &str, out: &str, rest: &[&str]| {
        let (key, out) = (at(key), at(out));
        let first = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ];
        let files = ["-keyout", &key, "-out", &out];
        tool("openssl", &[&first[..], &files, rest].concat());
    };
    request("ca.key", "ca.pem", &["-subj", "/CN=authority"]);
    let (ca, key) = (at("ca.pem"), at("ca.key"));
    let name = "subjectAltName=IP:127.0.0.1";
    let leaf = "basicConstraints=critical,CA:FALSE";
    let rest = [
        "-subj", "/CN=test", "-addext", name, "-addext", leaf, "-CA", &ca, "-CAkey", &key,
    ];
    request("key.pem", "cert.pem", &rest);
}

/// Runs `echo ran` from an image; the options come first.
fn run(host: &Host, options: &[&str], name: &str) -> Answer {
    let first = ["run", "--rm", "--network", "none"];
    host.bulkhead(&[&first, options, &[name, "echo", "ran"]].concat())
}

const INSECURE: &str = "--tls-verify=false";

#[test]
fn tags_digests_and_both_manifest_formats_are_pulled_once() {
    let host = Host::new();
    let mut registry = Registry::start(&Asks::default());
    registry.push("box:docker", "v2s2", &Asks::default());
    let name = registry.name("box:v1");
    let safe = run(&host, &[], &name);
    assert_eq!(safe.code, 125, "{safe:?}");
    assert!(safe.err.contains(INSECURE), "{safe:?}");
    assert_eq!(run(&host, &[INSECURE], &name).out, "ran");
    assert_eq!(
        run(&host, &[INSECURE], &registry.name("box:docker")).out,
        "ran"
    );
    let by_digest = registry.name(&format!("box@{}", registry.digest("v1")));
    assert_eq!(run(&host, &[INSECURE], &by_digest).out, "ran");
    let unknown = run(&host, &[INSECURE], &registry.name("box:v2"));
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.err.contains("box:v2"), "{unknown:?}");
    // What was pulled needs no registry.
    registry.child.kill().unwrap();
    registry.child.wait().unwrap();
    assert_eq!(run(&host, &[], &name).out, "ran");
    let again = run(&host, &["--pull", "always", INSECURE], &name);
    assert_eq!(again.code, 125, "{again:?}");
}

#[test]
fn an_index_leads_to_the_image_for_this_machine() {
    let host = Host::new();
    let registry = Registry::start(&Asks::default());
    let size = {
        let path = registry.digest("v1").replace("sha256:", "");
        let blobs = registry
            .dir
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        let blob = blobs.join(&path[..2]).join(&path).join("data");
        blob.metadata().unwrap().len()
    };
    let entry = |architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": registry.digest("v1"),
            "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |entries: Vec<serde_json::Value>| {
        serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string()
    };
    registry.put("many", kind, &index(vec![entry("arm64"), entry("amd64")]));
    registry.put("other", kind, &index(vec![entry("arm64")]));
    assert_eq!(
        run(&host, &[INSECURE], &registry.name("box:many")).out,
        "ran"
    );
    let other = run(&host, &[INSECURE], &registry.name("box:other"));
    assert!(
        other.err.contains("no variant for linux/amd64"),
        "{other:?}"
    );
}

#[test]
fn a_password_is_taken_from_where_login_puts_it() {
    let host = Host::new();
    let registry = Registry::start(&Asks {
        password: true,
        ..Asks::default()
    });
    let name = registry.name("box:v1");
    let auth = registry.dir.path().join("auth.json");
    let with = |credentials: &str| -> Answer {
        let text = format!(
            r#"{{"auths": {{"{}": {{"auth": "{credentials}"}}}}}}"#,
            registry.address
        );
        std::fs::write(&auth, text).unwrap();
        let mut command = host.command(&["image", "pull", INSECURE, &name]);
        Answer::of(command.env("REGISTRY_AUTH_FILE", &auth))
    };
    // "user:wrong" and "user:secret", base64.
    let wrong = with("dXNlcjp3cm9uZw==");
    assert_eq!(wrong.code, 125, "{wrong:?}");
    assert!(wrong.err.contains("podman login"), "{wrong:?}");
    assert!(!wrong.err.contains("wrong"), "{wrong:?}");
    let right = with("dXNlcjpzZWNyZXQ=");
    assert_eq!(right.code, 0, "{right:?}");
}

#[test]
fn a_certificate_has_to_be_trusted() {
    let host = Host::new();
    let registry = Registry::start(&Asks {
        tls: true,
        ..Asks::default()
    });
    let name = registry.name("box:v1");
    let untrusted = host.bulkhead(&["image", "pull", &name]);
    assert_eq!(untrusted.code, 125, "{untrusted:?}");
    assert!(untrusted.err.contains("certificate"), "{untrusted:?}");
    let mut command = host.command(&["image", "pull", &name]);
    command.env("SSL_CERT_FILE", registry.dir.path().join("ca.pem"));
    let trusted = Answer::of(&mut command);
    assert_eq!(trusted.code, 0, "{trusted:?}");
    assert_eq!(host.bulkhead(&["image", "pull", INSECURE, &name]).code, 0);
}

#[test]
fn a_layer_the_registry_changed_is_refused_and_nothing_is_kept() {
    let host = Host::new();
    let registry = Registry::start(&Asks::default());
    let blobs = registry.dir.path().join("data/docker/registry/v2/blobs");
    let listed = Command::new("find")
        .args([blobs.to_str().unwrap(), "-name", "data", "-size", "+100k"])
        .output()
        .unwrap();
    let layer = String::from_utf8(listed.stdout).unwrap();
    let layer = layer.lines().next().unwrap();
    let mut bytes = std::fs::read(layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(layer, bytes).unwrap();
    let answer = run(&host, &[INSECURE], &registry.name("box:v1"));
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(answer.err.contains("is damaged"), "{answer:?}");
    assert_eq!(
        host.bulkhead(&["image", "ls", "--format", "json"]).out,
        "[]"
    );
    let layers = host.path().join("store/layers");
    assert_eq!(std::fs::read_dir(layers).map_or(0, Iterator::count), 0);
}
