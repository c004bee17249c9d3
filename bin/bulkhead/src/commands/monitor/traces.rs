//! Spans of this host's pods, sent to an OpenTelemetry collector: OTLP over HTTP,
//! in its binary form. OpenTelemetry's protocol, 1.3, "OTLP/HTTP".

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use bulkhead_status::{SPAN_LIMIT, SPANS, Span, SpanId};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use tokio::net::{TcpStream, UnixDatagram};

use crate::report::CommandError;

/// Spans sent at once.
const BATCH: usize = 256;

/// How long the first span of a batch waits for others.
const GATHERING: Duration = Duration::from_millis(500);

/// How long a collector may take for a batch.
const SENDING: Duration = Duration::from_secs(10);

/// Bytes of a collector's answer read, and shown.
const ANSWER_LIMIT: usize = 4 << 10;

/// What is appended to the collector's address.
const PATH: &str = "v1/traces";

/// A collector.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    authority: String,
    path: String,
}

impl Collector {
    /// From its address, `http://HOST:PORT[/PATH]`.
    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong = |why: &str| {
            CommandError::new(format!(
                "`{text}` is no address of a collector: {why}; write http://HOST:PORT"
            ))
        };
        let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong(
                "spans are sent by plain HTTP, to a collector on this host or beside it",
            ));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            path: format!("{}/{PATH}", uri.path().trim_end_matches('/')),
        })
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.map_err(|error| text(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| text(&error))?;
        let request = Request::post(&self.path)
            .header(hyper::header::HOST, &self.authority)
            .header(hyper::header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| text(&error))?;
        let driver = tokio::spawn(connection);
        let answered = sender.send_request(request).await;
        let answer = answered.map_err(|error| text(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
            .collect()
            .await;
        driver.abort();
        if status.is_success() {
            return Ok(());
        }
        let words = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(format!("{status}: {}", String::from_utf8_lossy(&words)))
    }
}

/// The socket pods send to; it goes with this.
#[derive(Debug)]
pub(super) struct Spans {
    socket: UnixDatagram,
}

impl Spans {
    /// Begins to listen. One that nobody listens on any more is replaced.
    pub(super) fn listen() -> Result<Self, CommandError> {
        let failed = |error: io::Error| {
            CommandError::new(format!("spans cannot be taken at `{SPANS}`: {error}"))
        };
        let path = Path::new(SPANS);
        let dir = path.parent().unwrap_or(path);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        if std::os::unix::net::UnixDatagram::unbound()
            .and_then(|own| own.connect(path))
            .is_ok()
        {
            return Err(CommandError::new(format!(
                "another `bulkhead monitor --otlp` takes the spans at `{SPANS}`"
            )));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let socket = UnixDatagram::bind(path).map_err(failed)?;
        let own = Self { socket };
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        Ok(own)
    }

    /// Passes spans on until this is dropped. What a collector does not take is
    /// lost, and told once.
    pub(super) async fn pass_on(&self, collector: &Collector) {
        let mut well = true;
        loop {
            let spans = self.batch().await;
            let body = request(&spans).encode_to_vec();
            let sent = tokio::time::timeout(SENDING, collector.send(body)).await;
            let sent = sent.unwrap_or_else(|_| Err("it does not answer".to_owned()));
            if let Err(error) = &sent
                && well
            {
                eprintln!(
                    "bulkhead monitor: {} spans were lost, the collector at {} failed: {error}",
                    spans.len(),
                    collector.authority
                );
            }
            well = sent.is_ok();
        }
    }

    /// The next spans, at least one.
    async fn batch(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        spans.push(self.next().await);
        let gather = async {
            while spans.len() < BATCH {
                spans.push(self.next().await);
            }
        };
        let _ = tokio::time::timeout(GATHERING, gather).await;
        spans
    }

    async fn next(&self) -> Span {
        let mut bytes = vec![0; SPAN_LIMIT];
        loop {
            // What cannot be read is lost; the next may be read.
            if let Ok(length) = self.socket.recv(&mut bytes).await
                && let Ok(span) = serde_json::from_slice(&bytes[..length])
            {
                return span;
            }
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(SPANS);
    }
}

fn attribute(key: &str, text: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }),
        ..Default::default()
    }
}

fn bytes_of(id: SpanId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}

fn request(spans: &[Span]) -> ExportTraceServiceRequest {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let scope = otlp::ScopeSpans {
        scope: Some(InstrumentationScope {
            name: "bulkhead".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        spans: spans.iter().map(span).collect(),
        ..Default::default()
    };
    let resource = Resource {
        attributes: vec![
            attribute("service.name", "bulkhead".to_owned()),
            attribute("host.name", host),
        ],
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![otlp::ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope],
            ..Default::default()
        }],
    }
}

fn span(own: &Span) -> otlp::Span {
    use otlp::span::SpanKind;
    use otlp::status::StatusCode;
    let kind = match own.served {
        true => SpanKind::Server,
        false => SpanKind::Internal,
    };
    let failed = |text: &String| otlp::Status {
        message: text.clone(),
        code: StatusCode::Error.into(),
    };
    let attributes = own.attributes.iter();
    otlp::Span {
        trace_id: own.trace.0.to_be_bytes().to_vec(),
        span_id: bytes_of(own.id),
        parent_span_id: own.parent.map(bytes_of).unwrap_or_default(),
        name: own.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: own.start,
        end_time_unix_nano: own.end.max(own.start),
        attributes: attributes
            .map(|(key, text)| attribute(key, text.clone()))
            .collect(),
        status: own.error.as_ref().map(failed),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_of_plain_http() {
        let parsed = |text: &str| Collector::parse(text).map(|own| (own.authority, own.path));
        let at = |authority: &str, path: &str| (authority.to_owned(), path.to_owned());
        assert_eq!(
            parsed("http://127.0.0.1:4318").unwrap(),
            at("127.0.0.1:4318", "/v1/traces")
        );
        assert_eq!(
            parsed("http://[::1]/otlp/").unwrap(),
            at("[::1]:80", "/otlp/v1/traces")
        );
        for wrong in ["https://c:4318", "127.0.0.1:4318", "", "http:///x"] {
            assert!(Collector::parse(wrong).is_err(), "{wrong}");
        }
    }
}
