//! Who asks for a container that is being made waits until it is there: the
//! call that makes it may be that of a containerd that was killed meanwhile, and
//! whoever came after it wants to have it removed.

use super::Pod;
use crate::failure::{Failure, Outcome};

/// A container is being made, as long as this lives.
pub(super) struct Creation<'a> {
    pod: &'a Pod,
    id: String,
}

impl Pod {
    /// Announces a container, once.
    pub(super) fn creation(&self, id: &str) -> Outcome<Creation<'_>> {
        let news = self
            .creating
            .send_if_modified(|creating| creating.insert(id.to_owned()));
        let creation = news.then(|| Creation {
            pod: self,
            id: id.to_owned(),
        });
        creation
            .filter(|_| !self.lock().containers.contains_key(id))
            .ok_or_else(|| Failure::exists(format!("the container `{id}` exists")))
    }

    /// Answers when the container is not being made, or not any more.
    pub(super) async fn settled(&self, id: &str) {
        let mut creating = self.creating.subscribe();
        // The sender lives as long as `self`.
        let _ = creating.wait_for(|creating| !creating.contains(id)).await;
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        self.pod
            .creating
            .send_if_modified(|creating| creating.remove(&self.id));
    }
}
