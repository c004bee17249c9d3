//! `bulkhead monitor`: the pods of this host, for Prometheus and OpenTelemetry.

mod encode;
mod traces;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::cli::MonitorOptions;
use crate::report::{CommandError, Outcome};
use traces::{Collector, Spans};

/// Askers served at once; further ones wait.
const AT_ONCE: usize = 8;

/// How long an asker may take to ask.
const ASKING: Duration = Duration::from_secs(5);

/// How long it may take in all.
const SERVING: Duration = Duration::from_secs(30);

/// What Prometheus calls the text it reads.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until a signal ends it.
pub(super) fn run(options: &MonitorOptions) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let collector = options.otlp.as_deref().map(Collector::parse).transpose()?;
    runtime.block_on(async {
        let traces = match &collector {
            Some(collector) => Some((Spans::listen()?, collector)),
            None => None,
        };
        let pass_on = async {
            match &traces {
                Some((spans, collector)) => spans.pass_on(collector).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = listen(options.listen) => ended,
            () = pass_on => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn listen(address: SocketAddr) -> Outcome {
    let failed = |error: std::io::Error| {
        CommandError::new(format!("nothing can be served at {address}: {error}"))
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let own = listener.local_addr().map_err(failed)?;
    println!("listening on http://{own}/metrics");
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut end = Ends::watch()?;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(ExitCode::SUCCESS);
        };
        let connection = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.wait() => return Ok(ExitCode::SUCCESS),
        };
        // What failed to be accepted is gone; descriptors come back as others end.
        let Ok((connection, _)) = connection else {
            continue;
        };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(SERVING, serve(connection)).await;
            drop(place);
        });
    }
}

struct Ends {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Ends {
    fn watch() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(connection: TcpStream) -> Result<(), hyper::Error> {
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .serve_connection(TokioIo::new(connection), service_fn(answer))
        .await
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => metrics().await,
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(TEXT);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn metrics() -> (StatusCode, String) {
    let read = || bulkhead_status::all(Path::new(bulkhead_status::ROOT));
    let pods = tokio::task::spawn_blocking(read).await;
    let text = match pods {
        Ok(Ok(pods)) => encode::text(&pods).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match text {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
