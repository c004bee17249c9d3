//! What took how long, told while it happens: each pod's process sends a span to
//! whoever listens on one socket of the host, and forgets it.
//!
//! ```text
//!   shim ── datagram ──▶ /run/bulkhead/spans ── bulkhead monitor ──▶ collector
//! ```
//! Where nobody listens nothing is kept: a pod's process does not grow.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where spans are taken; root's alone.
pub const SPANS: &str = "/run/bulkhead/spans";

/// Largest datagram, bytes.
pub const SPAN_LIMIT: usize = 8 << 10;

/// Longest text of an attribute or an error told, bytes.
const TEXT_LIMIT: usize = 512;

/// An identifier of W3C's Trace Context, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(pub u128);

/// The same of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpanId(pub u64);

/// Digits of the right number, not all zero.
fn digits(text: &str, count: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let plain = text.len() == count && text.bytes().all(lower);
    let number = u128::from_str_radix(text, 16).ok();
    number.filter(|number| plain && *number != 0)
}

impl TryFrom<String> for TraceId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        digits(&text, 32).map(Self).ok_or("no trace id")
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        format!("{:032x}", id.0)
    }
}

impl TryFrom<String> for SpanId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = digits(&text, 16).and_then(|number| u64::try_from(number).ok());
        number.map(Self).ok_or("no span id")
    }
}

impl From<SpanId> for String {
    fn from(id: SpanId) -> Self {
        format!("{:016x}", id.0)
    }
}

/// Whose child a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span above; none: it is the first.
    pub parent: Option<SpanId>,
    /// Whoever began the trace wants it kept.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent`: W3C's Trace Context, 3.2.
    pub fn parse(text: &str) -> Option<Self> {
        const SAMPLED: u128 = 1;
        let mut parts = text.split('-');
        let version = parts.next()?;
        let (trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?);
        // A later version may say more behind; 255 is none.
        let known =
            version.len() == 2 && version != "ff" && u8::from_str_radix(version, 16).is_ok();
        if !known || (version == "00" && parts.next().is_some()) || flags.len() != 2 {
            return None;
        }
        let flags = u128::from_str_radix(flags, 16).ok()?;
        Some(Self {
            trace: TraceId(digits(trace, 32)?),
            parent: Some(SpanId(u64::try_from(digits(parent, 16)?).ok()?)),
            sampled: flags & SAMPLED != 0,
        })
    }
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Of which trace.
    pub trace: TraceId,
    /// Its own.
    pub id: SpanId,
    /// The span above.
    pub parent: Option<SpanId>,
    /// What it was.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// The same.
    pub end: u64,
    /// Somebody else asked for it: it is a call that was served.
    pub served: bool,
    /// What it was about.
    pub attributes: Vec<(String, String)>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Span {
    /// Sends it, without waiting, to whoever listens.
    ///
    /// # Errors
    /// When nobody does, or too many wait already.
    pub fn send(mut self, socket: &Path) -> io::Result<()> {
        for text in self.attributes.iter_mut().map(|(_, text)| text) {
            shorten(text);
        }
        self.error.iter_mut().for_each(shorten);
        let bytes = serde_json::to_vec(&self)?;
        let own = UnixDatagram::unbound()?;
        own.set_nonblocking(true)?;
        own.send_to(&bytes, socket).map(|_| ())
    }
}

fn shorten(text: &mut String) {
    let mut fits = (0..=TEXT_LIMIT.min(text.len())).rev();
    let end = fits.find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_says_whose_child_a_call_is() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::parse(text).unwrap();
        assert_eq!(
            String::from(context.trace),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(String::from(context.parent.unwrap()), "b7ad6b7169203331");
        assert!(context.sampled);
        assert!(!Context::parse(&text.replace("-01", "-00")).unwrap().sampled);
        assert!(Context::parse(&format!("{}-more", text.replacen("00-", "01-", 1))).is_some());
        for wrong in [
            "",
            "00",
            "00-0-0-0",
            &text.replacen("00-", "ff-", 1),
            &text.replace("0af7", "0AF7"),
            &text.replace("b7ad6b7169203331", "0000000000000000"),
            &format!("{text}-more"),
            &text[..text.len() - 1],
        ] {
            assert!(Context::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_span_arrives_whole_and_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spans");
        let span = Span {
            trace: TraceId(7),
            id: SpanId(8),
            parent: None,
            name: "create".to_owned(),
            start: 1,
            end: 2,
            served: true,
            attributes: vec![("pod".to_owned(), "ä".repeat(SPAN_LIMIT))],
            error: Some("x".repeat(SPAN_LIMIT)),
        };
        assert!(span.clone().send(&path).is_err(), "nobody listens");
        let listener = UnixDatagram::bind(&path).unwrap();
        span.send(&path).unwrap();
        let mut bytes = [0; SPAN_LIMIT];
        let length = listener.recv(&mut bytes).unwrap();
        let told: Span = serde_json::from_slice(&bytes[..length]).unwrap();
        assert_eq!((told.trace, told.id), (TraceId(7), SpanId(8)));
        assert_eq!(told.error.unwrap().len(), TEXT_LIMIT);
    }
}
