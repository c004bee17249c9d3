//! Evictions.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>

use serde_json::{Value, json};

use super::{Cluster, Target};
use crate::failure::Failure;
use crate::object;
use crate::query::Query;
use crate::selector::LabelSelector;
use crate::store::Kind;

impl Cluster {
    /// Deletes a pod unless a disruption budget forbids it.
    ///
    /// # Errors
    /// There is no such pod, or a budget that selects it allows no disruption.
    pub fn evict(
        &mut self,
        target: &Target,
        eviction: &Value,
        query: &Query,
    ) -> Result<Value, Failure> {
        let pod = self.get(target)?;
        let budgets = Kind {
            group: "policy".into(),
            plural: "poddisruptionbudgets".into(),
        };
        for (_, budget) in self.store.list(&budgets, &target.namespace) {
            let selector = object::at(budget, &["spec", "selector"]).unwrap_or(&Value::Null);
            let selects =
                LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(&pod));
            let allowed = object::at(budget, &["status", "disruptionsAllowed"]);
            if selects && allowed.and_then(Value::as_i64).unwrap_or_default() <= 0 {
                return Err(Failure::disruption(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                ));
            }
        }
        let options = eviction.get("deleteOptions").unwrap_or(&Value::Null);
        let query = query.clone().with_delete_options(options);
        self.delete(target, options, &query)?;
        Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201
        }))
    }
}
