//! What is served, and to how many.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_telemetry::{Telemetry, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Default)]
struct Told {
    ready: AtomicBool,
    broken: AtomicBool,
}

impl Telemetry for Told {
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(std::fmt::Error),
            false => Ok("up 1\n# EOF\n".to_owned()),
        }
    }

    fn unready(&self) -> Option<&'static str> {
        (!self.ready.load(Ordering::Relaxed)).then_some("too early")
    }
}

async fn ask(address: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn each_path_says_what_it_is_for() {
    let told = Arc::new(Told::default());
    let address = serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&told))
        .await
        .unwrap();
    let metrics = ask(address, "GET /metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0";
    assert!(metrics.contains(kind), "{metrics}");
    assert!(metrics.ends_with("\r\n\r\nup 1\n# EOF\n"), "{metrics}");
    let early = ask(address, "GET /readyz").await;
    assert!(early.starts_with("HTTP/1.1 503"), "{early}");
    assert!(early.ends_with("too early\n"), "{early}");
    told.ready.store(true, Ordering::Relaxed);
    let ready = ask(address, "GET /readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ask(address, "GET /healthz").await.contains("200"));
    for other in ["POST /metrics", "GET /", "GET /metrics/.."] {
        assert!(ask(address, other).await.contains("404"), "{other}");
    }
    told.broken.store(true, Ordering::Relaxed);
    let broken = ask(address, "GET /metrics").await;
    assert!(broken.starts_with("HTTP/1.1 500"), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_nothing_does_not_keep_others_out() {
    let told = Arc::new(Told::default());
    let address = serve("127.0.0.1:0".parse().unwrap(), told).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // The clock is Tokio's and runs ahead while everybody waits.
    assert!(ask(address, "GET /healthz").await.contains("alive"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let told = Arc::new(Told::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let address = serve(any, Arc::clone(&told)).await.unwrap();
    let error = serve(address, told).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
