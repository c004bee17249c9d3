//! Doing what was asked.

use std::sync::Arc;

use hyper::header;
use serde_json::{Value, json};

use super::{Answer, Call, text};
use crate::cluster::{Cluster, Deleted, Target};
use crate::failure::Failure;
use crate::object;
use crate::patch::Patch;
use crate::query::Query;
use crate::rbac::Asked;
use crate::resource::RBAC;
use crate::server::Shared;
use crate::table::Form;

/// The type of a server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// Answers a request that is not a watch.
pub(super) fn act(
    shared: &Shared,
    call: &Call,
    verb: &str,
    target: &Target,
) -> Result<Answer, Failure> {
    let accept = text(&call.headers, header::ACCEPT.as_str());
    let form = Form::accepted(accept, &call.raw_query)?;
    if matches!(verb, "get" | "list") {
        return read(shared, call, verb, target, form);
    }
    let mut cluster = shared.cluster();
    let before = cluster.store.version();
    let answer = match verb {
        "delete" | "deletecollection" => delete(&mut cluster, call, verb, target),
        "create" if target.subresource == "eviction" => cluster
            .evict(target, &call.json()?, &call.query)
            .map(|body| Answer { code: 201, body }),
        _ => {
            if shared.enforces() {
                may_write(&mut cluster, call, verb, target)?;
            }
            write(&mut cluster, call, verb, target, &call.query).map(|(code, object)| {
                let body = form.object(&target.resource, cluster.shown(target, &object));
                Answer { code, body }
            })
        }
    };
    let moved = cluster.store.version() != before;
    drop(cluster);
    if moved {
        shared.wake();
    }
    answer
}

fn write(
    cluster: &mut Cluster,
    call: &Call,
    verb: &str,
    target: &Target,
    query: &Query,
) -> Result<(u16, Arc<Value>), Failure> {
    let body = call.json()?;
    match verb {
        "create" => Ok((201, cluster.create(target, body, query)?)),
        "update" => Ok((200, cluster.update(target, body, query)?)),
        _ => patch(cluster, call, target, body, query),
    }
}

/// Refuses what the verb alone does not tell: an apply that creates, and a role or binding with
/// which a user would get more than they have.
fn may_write(
    cluster: &mut Cluster,
    call: &Call,
    verb: &str,
    target: &Target,
) -> Result<(), Failure> {
    if call.media() == APPLY && cluster.get(target).is_err() {
        let asked = Asked {
            verb: "create",
            group: &target.resource.group,
            resource: target.resource.plural.clone(),
            namespace: &target.namespace,
            name: &target.name,
        };
        if !cluster.allows(&call.user, &asked) {
            return Err(Failure::forbidden_text(asked.refused(&call.user)));
        }
    }
    if target.resource.group != RBAC {
        return Ok(());
    }
    let query = Query {
        dry_run: true,
        ..call.query.clone()
    };
    // What it would be; a refusal for another reason comes when it is done.
    if let Ok((_, object)) = write(cluster, call, verb, target, &query)
        && let Some(why) = cluster.escalates(&call.user, &target.resource.plural, &object)
    {
        let name = object::name(&object);
        return Err(Failure::forbidden(&target.resource, name, &why));
    }
    Ok(())
}

fn read(
    shared: &Shared,
    call: &Call,
    verb: &str,
    target: &Target,
    form: Form,
) -> Result<Answer, Failure> {
    let cluster = shared.cluster();
    let body = if verb == "get" {
        let object = cluster.get(target)?;
        form.object(&target.resource, cluster.shown(target, &object))
    } else {
        let page = cluster.list(target, &call.query)?;
        let mut about = json!({ "resourceVersion": page.version.to_string() });
        if !page.token.is_empty() {
            about["continue"] = json!(page.token);
            about["remainingItemCount"] = json!(page.remaining);
        }
        let items = page
            .items
            .iter()
            .map(|item| cluster.shown(target, item))
            .collect();
        form.list(&target.resource, items, &about)
    };
    Ok(Answer { code: 200, body })
}

fn patch(
    cluster: &mut Cluster,
    call: &Call,
    target: &Target,
    body: Value,
    query: &Query,
) -> Result<(u16, Arc<Value>), Failure> {
    let kind = match call.media() {
        "application/json-patch+json" => Patch::Json,
        "application/merge-patch+json" => Patch::Merge,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        APPLY => {
            let new = cluster.get(target).is_err();
            let object = cluster.apply(target, body, query)?;
            return Ok((if new { 201 } else { 200 }, object));
        }
        other => return Err(Failure::unsupported_media(other)),
    };
    Ok((200, cluster.patch(target, kind, body, query)?))
}

fn delete(
    cluster: &mut Cluster,
    call: &Call,
    verb: &str,
    target: &Target,
) -> Result<Answer, Failure> {
    let options: Value = match call.body.is_empty() {
        true => Value::Null,
        false => call.json()?,
    };
    let query = call.query.clone().with_delete_options(&options);
    if verb == "deletecollection" {
        let gone = cluster.delete_collection(target, &query)?;
        let items = gone
            .iter()
            .map(|item| cluster.shown(target, item))
            .collect();
        let about = json!({ "resourceVersion": cluster.store.version().to_string() });
        let body = Form::Whole.list(&target.resource, items, &about);
        return Ok(Answer { code: 200, body });
    }
    let body = match cluster.delete(target, &options, &query)? {
        Deleted::Going(object) => cluster.shown(target, &object),
        Deleted::Gone(object) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": target.name, "group": target.resource.group,
                "kind": target.resource.plural, "uid": object::uid(&object),
            },
        }),
    };
    Ok(Answer { code: 200, body })
}
