//! Metrics and probes of a program, over HTTP.
//!
//! ```text
//!   GET /metrics ──▶ what the program counts, for Prometheus
//!   GET /healthz ──▶ 200 while the program's tasks get their turns
//!   GET /readyz  ──▶ 200, or 503 and why not
//! ```
//!
//! Whoever asks is not trusted: connections are few, short, and of one request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at one time; further ones wait.
const CONNECTIONS: usize = 16;

/// How long a client may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long no connection is taken when the kernel gave none: it has no
/// descriptors left, and they come back as others end.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What Prometheus calls the text it reads.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a program tells of itself.
pub trait Telemetry: Send + Sync + 'static {
    /// What it counts, in OpenMetrics' text.
    ///
    /// # Errors
    /// A label or a value cannot be written.
    fn metrics(&self) -> Result<String, std::fmt::Error>;

    /// Why it cannot do its work yet; `None` when it can.
    fn unready(&self) -> Option<&'static str>;
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` cannot be listened on; choose another --metrics-address")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel says.
    #[source]
    pub source: std::io::Error,
}

/// Serves until the Tokio runtime ends, and returns where.
///
/// # Errors
/// The address is not to be had.
pub async fn serve(
    address: SocketAddr,
    telemetry: Arc<impl Telemetry>,
) -> Result<SocketAddr, ListenError> {
    let failed = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let own = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %own, "serving metrics");
    tokio::spawn(accept(listener, telemetry));
    Ok(own)
}

async fn accept(listener: TcpListener, telemetry: Arc<impl Telemetry>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        let telemetry = Arc::clone(&telemetry);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, connection(stream, &*telemetry)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, telemetry: &impl Telemetry) -> Result<(), hyper::Error> {
    let answer = service_fn(|request| std::future::ready(answer(telemetry, &request)));
    hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(
    telemetry: &impl Telemetry,
    request: &Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match telemetry.metrics() {
            Ok(text) => (StatusCode::OK, HeaderValue::from_static(TEXT), text),
            Err(error) => {
                let text = format!("the metrics cannot be written: {error}\n");
                (StatusCode::INTERNAL_SERVER_ERROR, plain, text)
            }
        },
        (&Method::GET, "/healthz") => (StatusCode::OK, plain, "alive\n".to_owned()),
        (&Method::GET, "/readyz") => match telemetry.unready() {
            None => (StatusCode::OK, plain, "ready\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, plain, format!("{why}\n")),
        },
        _ => {
            let text = "there is /metrics, /healthz and /readyz, by GET\n".to_owned();
            (StatusCode::NOT_FOUND, plain, text)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
