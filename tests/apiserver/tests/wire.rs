//! The server byte by byte: what no client library shows.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bulkhead_apiserver::{Effect, Fault, Options, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

type Stream = BufReader<TcpStream>;

/// Sends a request and reads the head of the answer.
async fn send(server: &Server, head: &str, body: &str) -> (Stream, String) {
    let url = server.url();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .unwrap();
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    // Headers after the first line of `head` come between it and the rest.
    let text = match head.split_once('\n') {
        None => text,
        Some((line, headers)) => format!(
            "{line} HTTP/1.1\r\n{headers}\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ),
    };
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            break;
        }
    }
    (stream, head)
}

/// A whole answer: its code, and its body.
async fn ask(server: &Server, head: &str, body: &str) -> (u16, Value) {
    let (mut stream, head) = send(server, head, body).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(&text).unwrap())
}

/// The next event of a watch, if it goes on; an error if it breaks.
async fn event(stream: &mut Stream) -> Result<Option<Value>, std::io::Error> {
    let mut size = String::new();
    stream.read_line(&mut size).await?;
    let size = match usize::from_str_radix(size.trim(), 16) {
        Ok(0) => return Ok(None),
        Ok(size) => size,
        Err(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
    };
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk).await?;
    assert!(chunk.ends_with(b"\n\r\n"), "one line in one chunk");
    Ok(Some(serde_json::from_slice(&chunk).unwrap()))
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

async fn server() -> Server {
    Server::start(Options::default()).await.unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let server = server().await;
    server.load(map("a")).unwrap();
    let watch = format!("GET {MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=0");
    let (mut stream, head) = send(&server, &watch, "").await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(event(&mut stream).await.unwrap().unwrap()["type"], "ADDED");
    let last = event(&mut stream).await.unwrap().unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert_eq!(last["object"]["kind"], "ConfigMap");
    assert_eq!(event(&mut stream).await.unwrap(), None);
}

#[tokio::test]
async fn bookmarks_come_while_nothing_happens() {
    let options = Options {
        bookmarks: Duration::from_millis(5),
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    let (mut stream, _) = send(
        &server,
        &format!("GET {MAPS}?watch=1&allowWatchBookmarks=true"),
        "",
    )
    .await;
    let first = event(&mut stream).await.unwrap().unwrap();
    let path = ["object", "metadata", "resourceVersion"];
    let version = |event: &Value| path.iter().fold(event, |value, step| &value[*step]).clone();
    // What does not concern the watch moves its bookmarks.
    server
        .load(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" } }))
        .unwrap();
    loop {
        let next = event(&mut stream).await.unwrap().unwrap();
        assert_eq!(next["type"], "BOOKMARK");
        if version(&next) != version(&first) {
            return;
        }
    }
}

#[tokio::test]
async fn a_forgotten_version_is_an_event_or_a_status() {
    let server = server().await;
    server.load(map("a")).unwrap();
    server.faults().forget_history();
    let watch = format!("GET {MAPS}?watch=1&resourceVersion=2");
    let (mut stream, head) = send(&server, &watch, "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let error = event(&mut stream).await.unwrap().unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(event(&mut stream).await.unwrap(), None);
    server.faults().plain_expiry(true);
    let (code, status) = ask(&server, &watch, "").await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn a_watch_may_break_after_some_events() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        server.load(map(name)).unwrap();
    }
    server.faults().add(
        Fault::new(Effect::Cut(2))
            .on("watch", "configmaps")
            .times(1),
    );
    let (mut stream, _) = send(&server, &format!("GET {MAPS}?watch=1"), "").await;
    assert!(event(&mut stream).await.unwrap().is_some());
    assert!(event(&mut stream).await.unwrap().is_some());
    assert!(event(&mut stream).await.is_err());
}

#[tokio::test]
async fn a_request_may_have_no_answer_or_a_late_one() {
    let server = server().await;
    server.faults().add(Fault::new(Effect::Disconnect).times(1));
    let (_, head) = send(&server, &format!("GET {MAPS}"), "").await;
    assert_eq!(head, "");
    let late = Effect::Delay(Duration::from_millis(1));
    server.faults().add(Fault::new(late).times(1));
    assert_eq!(ask(&server, &format!("GET {MAPS}"), "").await.0, 200);
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_again() {
    let server = server().await;
    server.faults().add(Fault::status(429).times(1));
    let (_, head) = send(&server, &format!("GET {MAPS}"), "").await;
    assert!(
        head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 1"),
        "{head}"
    );
}

#[tokio::test]
async fn rows_are_watched_too() {
    let server = server().await;
    let accept = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    server.load(map("a")).unwrap();
    let (code, table) = ask(&server, &format!("GET {MAPS}\n{accept}"), "").await;
    assert_eq!((code, &table["kind"]), (200, &json!("Table")));
    assert_eq!(table["rows"][0]["cells"][0], "a");
    let (mut stream, _) = send(&server, &format!("GET {MAPS}?watch=1\n{accept}"), "").await;
    let event = event(&mut stream).await.unwrap().unwrap();
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(
        event["object"]["rows"][0]["object"]["kind"],
        "PartialObjectMetadata"
    );
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_in_words() {
    let server = server().await;
    for (head, body, code, reason) in [
        ("GET /nowhere", "", 404, "NotFound"),
        ("GET /apis/no.group/v1/things", "", 404, "NotFound"),
        ("PUT /api/v1/nodes", "{}", 405, "MethodNotAllowed"),
        ("POST /api/v1/nodes", "{", 400, "BadRequest"),
        ("POST /api/v1/nodes", "[]", 400, "BadRequest"),
        (
            "POST /api/v1/nodes",
            "{\"kind\":\"Pod\"}",
            400,
            "BadRequest",
        ),
        ("POST /api/v1/nodes", "{}", 422, "Invalid"),
        ("POST /api/v1/configmaps", "{}", 404, "NotFound"),
        (
            "GET /api/v1/nodes?labelSelector=a%20b",
            "",
            400,
            "BadRequest",
        ),
        (
            "GET /api/v1/nodes?fieldSelector=spec.x%3D1",
            "",
            400,
            "BadRequest",
        ),
        ("GET /api/v1/nodes?limit=x", "", 400, "BadRequest"),
        ("GET /api/v1/nodes?continue=x", "", 400, "BadRequest"),
        (
            "GET /api/v1/nodes\nAccept: application/vnd.kubernetes.protobuf",
            "",
            406,
            "NotAcceptable",
        ),
        (
            "PATCH /api/v1/nodes/a\nContent-Type: text/plain",
            "{}",
            415,
            "UnsupportedMediaType",
        ),
        (
            "PATCH /api/v1/nodes/a\nContent-Type: application/apply-patch+yaml",
            "{}",
            422,
            "Invalid",
        ),
        (
            "PUT /api/v1/nodes/a",
            "{\"metadata\":{\"name\":\"a\"}}",
            404,
            "NotFound",
        ),
        ("DELETE /api/v1/nodes/a", "", 404, "NotFound"),
    ] {
        let (found, status) = ask(&server, head, body).await;
        assert_eq!(
            (found, &status["reason"]),
            (code, &json!(reason)),
            "{head}: {status}"
        );
        assert_eq!(status["kind"], "Status");
    }
    let large = format!("POST /api/v1/nodes\nX: {}", "y");
    let (code, _) = ask(&server, &large, &" ".repeat(3 << 20)).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn whoever_asks_is_known_by_name() {
    let server = server().await;
    ask(&server, "GET /api/v1/nodes\nAuthorization: Bearer bob", "").await;
    ask(
        &server,
        "GET /api/v1/nodes\nAuthorization: Bearer bob\r\nImpersonate-User: eve",
        "",
    )
    .await;
    ask(&server, "GET /api/v1/nodes", "").await;
    let users: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.user)
        .collect();
    assert_eq!(users, ["bob", "eve", "kubernetes-admin"]);
}

#[tokio::test]
async fn what_somebody_may_do_can_be_asked() {
    let server = server().await;
    let api = "rbac.authorization.k8s.io/v1";
    server
        .load(json!({ "items": [
            { "apiVersion": api, "kind": "ClusterRole", "metadata": { "name": "r" },
              "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }] },
            { "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": { "name": "r" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                           "name": "r" },
              "subjects": [{ "kind": "User", "name": "bob" }] },
        ]}))
        .unwrap();
    let path = "POST /apis/authorization.k8s.io/v1";
    for (verb, allowed) in [("get", true), ("delete", false)] {
        let about = json!({ "verb": verb, "resource": "nodes" });
        let own = json!({ "spec": { "resourceAttributes": about } }).to_string();
        let own_path = format!("{path}/selfsubjectaccessreviews\nAuthorization: Bearer bob");
        let (code, review) = ask(&server, &own_path, &own).await;
        assert_eq!((code, &review["status"]["allowed"]), (201, &json!(allowed)));
        let other = json!({ "spec": { "user": "bob", "resourceAttributes": about } }).to_string();
        let (_, review) = ask(&server, &format!("{path}/subjectaccessreviews"), &other).await;
        assert_eq!(review["status"]["allowed"], allowed);
    }
}

#[tokio::test]
async fn the_program_prints_where_it_listens_and_serves_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.json");
    std::fs::write(&file, json!({ "items": [map("a")] }).to_string()).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bulkhead-apiserver"))
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).await.unwrap();
    let address = line.trim().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {MAPS}/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"name\":\"a\""),
        "{answer}"
    );
}
