//! HTTP.

mod act;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use crate::cluster::Target;
use crate::discovery;
use crate::failure::Failure;
use crate::faults::Effect;
use crate::object;
use crate::query::Query;
use crate::rbac::{Asked, User};
use crate::route::{Place, Route};
use crate::server::{Recorded, Shared};

/// Largest body read, bytes; what a real server takes.
const BODY: usize = 3 << 20;

pub(crate) type Body = BoxBody<Bytes, io::Error>;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request, read whole.
struct Call {
    method: Method,
    headers: HeaderMap,
    query: Query,
    raw_query: String,
    body: Bytes,
    user: User,
}

impl Call {
    /// The type of the body, without parameters.
    fn media(&self) -> &str {
        let media = text(&self.headers, header::CONTENT_TYPE.as_str());
        media.split(';').next().unwrap_or_default().trim()
    }

    fn json(&self) -> Result<Value, Failure> {
        if self.media() == PROTOBUF {
            return Err(Failure::unsupported_media(PROTOBUF));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::bad_request(format!("the body is no JSON: {error}")))
    }
}

struct Answer {
    code: u16,
    body: Value,
}

/// Answers a request. An error ends the connection.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Ok(refused(&Failure::bad_request(format!(
                "the body is unreadable: {error}"
            ))));
        }
    };
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    let mut query = match Query::parse(&raw_query) {
        Ok(query) => query,
        Err(failure) => return Ok(refused(&failure)),
    };
    if query.manager.is_empty() && !is_apply(&parts.headers) {
        query.manager = agent(&parts.headers);
    }
    let user = user(&parts.headers);
    query.user = (user.name.clone(), user.groups.clone());
    let call = Call {
        user,
        method: parts.method,
        headers: parts.headers,
        query,
        raw_query,
        body,
    };
    match Route::parse(parts.uri.path()) {
        Route::Object(place) => objects(&shared, &call, &place).await,
        Route::Review { own } => Ok(match review(&shared, &call, own) {
            Ok(value) => answered(201, &value),
            Err(failure) => refused(&failure),
        }),
        route => {
            let accept = text(&call.headers, header::ACCEPT.as_str());
            Ok(match described(&shared, &route, accept) {
                Ok(value) => answered(200, &value),
                Err(failure) => refused(&failure),
            })
        }
    }
}

fn described(shared: &Shared, route: &Route, accept: &str) -> Result<Value, Failure> {
    let cluster = shared.cluster();
    let registry = &cluster.registry;
    let found = match route {
        Route::Version => Some(discovery::version()),
        Route::Health => Some(json!("ok")),
        Route::Core => Some(discovery::core()),
        Route::Groups => Some(discovery::groups(registry)),
        Route::Group(name) => discovery::group(registry, name),
        Route::Kinds { group, version } => discovery::kinds(registry, group, version),
        // It is asked for as protobuf first.
        Route::OpenApi2 if !accept.contains("json") && !accept.contains("*/*") => {
            return Err(Failure::not_acceptable());
        }
        Route::OpenApi2 => Some(discovery::openapi2(registry)),
        Route::OpenApi3 => Some(discovery::openapi3(registry)),
        Route::OpenApi3Of { group, version } => discovery::openapi3_of(registry, group, version),
        Route::Object(_) | Route::Review { .. } | Route::Nothing => None,
    };
    found.ok_or_else(Failure::no_such_path)
}

/// Whether a user may do something.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>
fn review(shared: &Shared, call: &Call, own: bool) -> Result<Value, Failure> {
    if call.method != Method::POST {
        return Err(Failure::not_allowed());
    }
    let mut review = call.json()?;
    let allowed = {
        let spec = &review["spec"];
        let user = match own {
            true => call.user.clone(),
            false => User::named(spec["user"].as_str(), object::texts(spec, &["groups"])),
        };
        let asked = Asked::reviewed(&spec["resourceAttributes"]);
        shared.cluster().allows(&user, &asked)
    };
    review["status"] = json!({ "allowed": allowed });
    Ok(review)
}

async fn objects(shared: &Arc<Shared>, call: &Call, place: &Place) -> io::Result<Response<Body>> {
    let verb = match verb(call, place) {
        Ok(verb) => verb,
        Err(failure) => return Ok(refused(&failure)),
    };
    let resource = match place.subresource.as_str() {
        "" => place.plural.clone(),
        subresource => format!("{}/{subresource}", place.plural),
    };
    shared.record(Recorded {
        verb: verb.into(),
        group: place.group.clone(),
        resource: place.plural.clone(),
        subresource: place.subresource.clone(),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        user: call.user.name.clone(),
        time: SystemTime::now(),
    });
    let effects = shared.faults().hit(verb, &resource, &call.user.name);
    let mut cut = None;
    for effect in effects {
        match effect {
            Effect::Delay(time) => tokio::time::sleep(time).await,
            Effect::Disconnect => return Err(io::ErrorKind::ConnectionReset.into()),
            Effect::Cut(events) => cut = Some(events),
            Effect::Status { code, retry_after } => {
                return Ok(refused(&Failure::injected(code, retry_after)));
            }
        }
    }
    let one = match verb {
        "list" | "watch" => one(&call.query.fields),
        _ => None,
    };
    let asked = Asked {
        verb,
        group: &place.group,
        resource,
        namespace: &place.namespace,
        name: one.unwrap_or(&place.name),
    };
    let answer = match target(shared, call, place, &asked) {
        Ok(target) if verb == "watch" => return Ok(stream::watch(shared, call, &target, cut)),
        Ok(target) => act::act(shared, call, verb, &target),
        Err(failure) => Err(failure),
    };
    Ok(match answer {
        Ok(answer) => answered(answer.code, &answer.body),
        Err(failure) => refused(&failure),
    })
}

fn verb(call: &Call, place: &Place) -> Result<&'static str, Failure> {
    let whole = place.name.is_empty();
    Ok(match call.method {
        Method::GET if call.query.watch => "watch",
        Method::GET if whole => "list",
        Method::GET => "get",
        Method::POST if whole || !place.subresource.is_empty() => "create",
        Method::PUT if !whole => "update",
        Method::PATCH if !whole => "patch",
        Method::DELETE if whole => "deletecollection",
        Method::DELETE => "delete",
        _ => return Err(Failure::not_allowed()),
    })
}

/// The one object a selector of fields leaves, which is what a list or a watch then asks for: so
/// roles with `resourceNames` may allow it.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources>
fn one(fields: &str) -> Option<&str> {
    let mut parts = fields.split(',');
    let value = parts.find_map(|part| part.strip_prefix("metadata.name="))?;
    Some(value.strip_prefix('=').unwrap_or(value))
}

/// What the path leads to, if the user may ask for it.
fn target(
    shared: &Shared,
    call: &Call,
    place: &Place,
    asked: &Asked<'_>,
) -> Result<Target, Failure> {
    let cluster = shared.cluster();
    if shared.enforces() && !cluster.allows(&call.user, asked) {
        return Err(Failure::forbidden_text(asked.refused(&call.user)));
    }
    let resource = cluster
        .registry
        .find(&place.group, &place.version, &place.plural)
        .cloned()
        .ok_or_else(Failure::no_such_path)?;
    let pod = resource.group.is_empty() && resource.plural == "pods";
    let known = match place.subresource.as_str() {
        "" => true,
        "status" => resource.status,
        "eviction" => pod && asked.verb == "create",
        _ => false,
    };
    let collection = place.name.is_empty() && asked.verb != "create";
    let scoped = resource.namespaced != place.namespace.is_empty();
    if !known || !(scoped || (collection && resource.namespaced)) {
        return Err(Failure::no_such_path());
    }
    Ok(Target {
        resource,
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        subresource: place.subresource.clone(),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn is_apply(headers: &HeaderMap) -> bool {
    text(headers, "content-type").starts_with("application/apply-patch")
}

/// What a manager is called who does not say so.
fn agent(headers: &HeaderMap) -> String {
    let agent = text(headers, "user-agent")
        .split('/')
        .next()
        .unwrap_or_default();
    match agent {
        "" => "unknown".to_owned(),
        agent => agent.chars().take(128).collect(),
    }
}

fn user(headers: &HeaderMap) -> User {
    let bearer = text(headers, "authorization").strip_prefix("Bearer ");
    let (name, groups) = match text(headers, "impersonate-user") {
        "" => (bearer, Vec::new()),
        name => {
            let groups = headers.get_all("impersonate-group").iter();
            let groups = groups.filter_map(|group| Some(group.to_str().ok()?.to_owned()));
            (Some(name), groups.take(32).collect())
        }
    };
    User::named(name, groups)
}

fn answered(code: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string()));
    built(code, body.map_err(|never| match never {}).boxed())
}

fn refused(failure: &Failure) -> Response<Body> {
    let mut response = answered(failure.code, &failure.status());
    if let Some(seconds) = failure.retry_after() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn built(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
