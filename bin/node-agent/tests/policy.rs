//! The policy that keeps an agent to its own node. The test API server knows
//! no token's extras, so the expressions are asked here, one by one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use cel::{Context, Env, Value as Cel};
use serde_json::{Value, json};

const AGENT: &str = "system:serviceaccount:bulkhead-system:bulkhead-node-agent";

fn policy() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node-agent/policy.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(text.split("\n---\n").next().unwrap()).unwrap()
}

/// Whether an expression of the policy holds. An error would deny as well, as
/// `failurePolicy: Fail` has it, but not in the policy's words.
fn holds(expression: &Value, user: &Value) -> bool {
    let env = Arc::new(Env::stdlib());
    let program = env.compile(expression.as_str().unwrap()).unwrap();
    let mut context = Context::with_env(env);
    let request = json!({ "userInfo": user });
    let object = json!({ "metadata": { "name": "worker-1" } });
    context.add_variable("request", request).unwrap();
    context.add_variable("object", object).unwrap();
    program.execute(&context).unwrap() == Cel::Bool(true)
}

fn user(name: &str, node: Option<&str>) -> Value {
    let mut extra = json!({});
    if let Some(node) = node {
        extra["authentication.kubernetes.io/node-name"] = json!([node]);
    }
    json!({ "username": name, "extra": extra })
}

#[test]
fn an_agent_writes_about_its_own_node_only() {
    let policy = policy();
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let concerns = &policy["spec"]["matchConditions"][0]["expression"];
    let allows = &policy["spec"]["validations"][0]["expression"];
    assert!(holds(concerns, &user(AGENT, None)));
    assert!(!holds(
        concerns,
        &user("system:serviceaccount:x:bulkhead-operator", None)
    ));
    assert!(holds(allows, &user(AGENT, Some("worker-1"))));
    assert!(!holds(allows, &user(AGENT, Some("worker-2"))));
    assert!(!holds(allows, &user(AGENT, None)));
    assert!(!holds(allows, &json!({ "username": AGENT })));
}
