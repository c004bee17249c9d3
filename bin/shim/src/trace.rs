//! Calls and what they were made of, as spans of a trace: OpenTelemetry's, by
//! way of `bulkhead monitor`. Off by default.
//!
//! A call is the child of the span its caller names (`traceparent` in the
//! metadata of ttrpc); without one all calls of a pod are one trace, named after
//! the pod's id.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_sandbox::Timing;
use bulkhead_status::{Context, SPANS, Span, SpanId, TraceId};
use sha2::{Digest, Sha256};
use ttrpc::r#async::TtrpcContext;

/// How the metadata of a call names its caller's span.
const TRACEPARENT: &str = "traceparent";

/// A call that is being served, or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    name: &'static str,
    caller: Option<Context>,
    id: SpanId,
    start: SystemTime,
    /// Somebody asked for it; else it is a part of what was asked for.
    served: bool,
}

impl Call {
    /// It begins now.
    pub(crate) fn begin(name: &'static str, context: &TtrpcContext) -> Self {
        let told = context.metadata.get(TRACEPARENT);
        let caller = told.and_then(|all| Context::parse(all.first()?));
        Self::of(name, caller)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    fn of(name: &'static str, caller: Option<Context>) -> Self {
        Self {
            name,
            caller,
            id: fresh(),
            start: SystemTime::now(),
            served: true,
        }
    }

    /// A part of it that begins now and may last longer than the call.
    pub(crate) fn part(&self, name: &'static str, pod: &str) -> Self {
        let context = Context {
            parent: Some(self.id),
            ..self.context(pod)
        };
        Self {
            served: false,
            ..Self::of(name, Some(context))
        }
    }

    fn context(&self, pod: &str) -> Context {
        self.caller.unwrap_or_else(|| Context {
            trace: trace_of(pod),
            parent: None,
            sampled: true,
        })
    }
}

/// The trace of a pod nobody named one for.
fn trace_of(pod: &str) -> TraceId {
    let digest = Sha256::digest(pod.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    TraceId(u128::from_be_bytes(bytes).max(1))
}

fn fresh() -> SpanId {
    let mut bytes = [0; 8];
    // Fails on no kernel that can run a machine; a span of this name is one
    // among others.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    SpanId(u64::from_ne_bytes(bytes).max(1))
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Where a pod's spans go.
#[derive(Debug, Clone)]
pub(crate) struct Tracer {
    pod: String,
    attributes: Vec<(String, String)>,
}

impl Tracer {
    /// Of a pod with what is said of it in each span.
    pub(crate) fn new(pod: &str, kubernetes: Option<&bulkhead_status::Kubernetes>) -> Self {
        // OpenTelemetry's semantic conventions for Kubernetes.
        let mut attributes = vec![("k8s.pod.sandbox.id".to_owned(), pod.to_owned())];
        if let Some(own) = kubernetes {
            attributes.extend([
                ("k8s.pod.name".to_owned(), own.name.clone()),
                ("k8s.namespace.name".to_owned(), own.namespace.clone()),
                ("k8s.pod.uid".to_owned(), own.uid.clone()),
            ]);
        }
        Self {
            pod: pod.to_owned(),
            attributes,
        }
    }

    /// Tells of a call, or a part of one, that ends now.
    pub(crate) fn ended(&self, call: &Call, container: Option<&str>, error: Option<String>) {
        let context = call.context(&self.pod);
        let time = (call.start, SystemTime::now());
        self.send(context, call.id, call.name, time, |span| {
            span.served = call.served;
            span.error = error;
            let own = container.map(|id| ("container.id".to_owned(), id.to_owned()));
            span.attributes.extend(own);
        });
    }

    /// Tells of phases that followed each other, the first of them from the
    /// call's beginning on.
    pub(crate) fn phases(&self, call: &Call, phases: &[Timing]) {
        self.sequence(call, call.start, phases, "host");
    }

    /// Tells of phases of the guest's that ended just now.
    pub(crate) fn guest_phases(&self, call: &Call, phases: &[Timing]) {
        let all: Duration = phases.iter().map(|own| own.took).sum();
        let start = SystemTime::now().checked_sub(all).unwrap_or(UNIX_EPOCH);
        self.sequence(call, start, phases, "guest");
    }

    fn sequence(&self, call: &Call, start: SystemTime, phases: &[Timing], place: &str) {
        let context = Context {
            parent: Some(call.id),
            ..call.context(&self.pod)
        };
        let mut from = start;
        for phase in phases {
            let to = from + phase.took;
            self.send(context, fresh(), phase.phase, (from, to), |span| {
                let own = ("bulkhead.side".to_owned(), place.to_owned());
                span.attributes.push(own);
            });
            from = to;
        }
    }

    fn send(
        &self,
        context: Context,
        id: SpanId,
        name: &str,
        (start, end): (SystemTime, SystemTime),
        change: impl FnOnce(&mut Span),
    ) {
        if !context.sampled {
            return;
        }
        let mut span = Span {
            trace: context.trace,
            id,
            parent: context.parent,
            name: name.to_owned(),
            start: nanoseconds(start),
            end: nanoseconds(end),
            served: false,
            attributes: self.attributes.clone(),
            error: None,
        };
        change(&mut span);
        // Nobody has to listen.
        let _ = span.send(Path::new(SPANS));
    }
}

/// The start of a pod's machine, which goes on when its call was answered.
pub(crate) const BOOT: &str = "boot";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_pod_are_one_trace_and_parts_are_children() {
        let create = Call::of("create", None);
        let (one, other) = (
            create.context("pod"),
            Call::of("start", None).context("pod"),
        );
        assert_eq!(one.trace, other.trace);
        assert_ne!(one.trace, create.context("another").trace);
        let boot = create.part(BOOT, "pod");
        assert_eq!(boot.context("pod").parent, Some(create.id));
        assert_ne!(boot.id, create.id);
    }

    #[test]
    fn the_callers_trace_is_gone_on_with() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let call = Call::of("create", Context::parse(text));
        let own = call.context("pod");
        assert_eq!(own.parent, Some(SpanId(0xb7ad_6b71_6920_3331)));
        assert!(!call.part(BOOT, "pod").context("pod").sampled);
    }
}
