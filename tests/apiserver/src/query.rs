//! What a request asks for in its query.

use std::time::Duration;

use crate::failure::Failure;
use crate::object::text;
use serde_json::Value;

/// Options of a request.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-parameters/common-parameters/>
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// `labelSelector`
    pub labels: String,
    /// `fieldSelector`
    pub fields: String,
    /// `limit`; 0 for no limit.
    pub limit: usize,
    /// `continue`
    pub token: String,
    /// `dryRun=All`
    pub dry_run: bool,
    /// `fieldManager`
    pub manager: String,
    /// `force`
    pub force: bool,
    /// `fieldValidation=Strict`
    pub strict: bool,
    /// `watch`
    pub watch: bool,
    /// `resourceVersion`
    pub version: String,
    /// `resourceVersionMatch`
    pub version_match: String,
    /// `allowWatchBookmarks`
    pub bookmarks: bool,
    /// `sendInitialEvents`
    pub initial_events: bool,
    /// `timeoutSeconds`
    pub timeout: Option<Duration>,
    /// `propagationPolicy`
    pub propagation: String,
    /// Who asks: name and groups; empty for an administrator. Not a parameter, but what every
    /// write has to know.
    pub user: (String, Vec<String>),
}

impl Query {
    /// Reads the part of a URL after `?`.
    ///
    /// # Errors
    /// A number is none.
    pub fn parse(query: &str) -> Result<Self, Failure> {
        let mut all = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).take(64) {
            let yes = matches!(&*value, "true" | "1");
            let number = || {
                let wrong = |_| Failure::bad_request(format!("`{name}` must be a number"));
                value.parse::<u32>().map_err(wrong)
            };
            match &*name {
                "labelSelector" => all.labels = value.into_owned(),
                "fieldSelector" => all.fields = value.into_owned(),
                "limit" => all.limit = number()? as usize,
                "continue" => all.token = value.into_owned(),
                "dryRun" => all.dry_run = value == "All",
                "fieldManager" => all.manager = value.into_owned(),
                "force" => all.force = yes,
                "fieldValidation" => all.strict = value == "Strict",
                "watch" => all.watch = yes,
                "resourceVersion" => all.version = value.into_owned(),
                "resourceVersionMatch" => all.version_match = value.into_owned(),
                "allowWatchBookmarks" => all.bookmarks = yes,
                "sendInitialEvents" => all.initial_events = yes,
                "timeoutSeconds" => all.timeout = Some(Duration::from_secs(number()?.into())),
                "propagationPolicy" => all.propagation = value.into_owned(),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Reads what `DeleteOptions` says beside the URL.
    pub(crate) fn with_delete_options(mut self, options: &Value) -> Self {
        let propagation = text(options, &["propagationPolicy"]);
        if !propagation.is_empty() {
            self.propagation = propagation.to_owned();
        }
        if crate::object::texts(options, &["dryRun"])
            .iter()
            .any(|dry| dry == "All")
        {
            self.dry_run = true;
        }
        self
    }
}
