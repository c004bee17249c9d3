//! Trouble on demand.

use std::collections::BTreeMap;
use std::time::Duration;

/// Trouble for some requests.
#[derive(Debug, Clone)]
pub struct Fault {
    verb: String,
    resource: String,
    /// Empty for anybody.
    user: String,
    effect: Effect,
    skip: u32,
    times: Option<u32>,
    /// Of a thousand requests.
    chance: u16,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is answered with this status.
    Status {
        /// The HTTP status code.
        code: u16,
        /// Seconds, for the header `Retry-After`.
        retry_after: Option<u32>,
    },
    /// It is answered later; the time is Tokio's, so that a paused clock skips it.
    Delay(Duration),
    /// The connection ends without an answer.
    Disconnect,
    /// A watch's connection breaks after so many events.
    Cut(u32),
}

impl Fault {
    /// Any effect, on every request.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            verb: "*".into(),
            resource: "*".into(),
            user: String::new(),
            effect,
            skip: 0,
            times: None,
            chance: 1000,
        }
    }

    /// An answer with a status.
    #[must_use]
    pub fn status(code: u16) -> Self {
        let retry_after = (code == 429).then_some(1);
        Self::new(Effect::Status { code, retry_after })
    }

    /// Only requests of `verb` (as `list`; `*` for all) for `resource` (as `nodes` or
    /// `pods/eviction`; `*` for all).
    #[must_use]
    pub fn on(mut self, verb: &str, resource: &str) -> Self {
        self.verb = verb.into();
        self.resource = resource.into();
        self
    }

    /// Only requests of a user; else also those without a name, which are an administrator's.
    #[must_use]
    pub fn by(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }

    /// Only so many of them.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Not the first of them.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Only so many of a thousand, at random.
    #[must_use]
    pub fn per_mille(mut self, chance: u16) -> Self {
        self.chance = chance;
        self
    }

    fn matches(&self, verb: &str, resource: &str, user: &str) -> bool {
        let is = |wanted: &str, found: &str| wanted == "*" || wanted == found;
        let whose = self.user.is_empty() || self.user == user;
        is(&self.verb, verb) && is(&self.resource, resource) && whose
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    state: u64,
    drops: BTreeMap<String, u64>,
    pub(crate) plain_expiry: bool,
}

impl Faults {
    pub(crate) fn seed(&mut self, seed: u64) {
        self.state = seed;
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// What happens to a request; several faults may hit one.
    pub(crate) fn hit(&mut self, verb: &str, resource: &str, user: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        for fault in &mut self.list {
            if !fault.matches(verb, resource, user) || fault.times == Some(0) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            self.state = self.state.wrapping_add(1);
            if crate::seed::mix(self.state) % 1000 >= u64::from(fault.chance) {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            effects.push(fault.effect);
        }
        effects
    }

    /// Breaks the connections of the watches of a resource.
    pub(crate) fn drop_watches(&mut self, resource: &str) {
        *self.drops.entry(resource.to_owned()).or_default() += 1;
    }

    /// Changes whenever the watches of `resource` are to break.
    pub(crate) fn drops(&self, resource: &str) -> u64 {
        let of = |name: &str| self.drops.get(name).copied().unwrap_or_default();
        of(resource) + of("*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_what_it_names_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.add(Fault::status(503).on("list", "nodes").after(1).times(2));
        let hits = |faults: &mut Faults| faults.hit("list", "nodes", "").len();
        assert_eq!(faults.hit("list", "pods", ""), []);
        assert_eq!(faults.hit("get", "nodes", ""), []);
        let seen: Vec<_> = (0..5).map(|_| hits(&mut faults)).collect();
        assert_eq!(seen, [0, 1, 1, 0, 0]);
    }

    #[test]
    fn a_fault_may_be_for_one_user_alone() {
        let mut faults = Faults::default();
        faults.add(Fault::status(500).by("robot"));
        assert_eq!(faults.hit("get", "x", "").len(), 0);
        assert_eq!(faults.hit("get", "x", "somebody").len(), 0);
        assert_eq!(faults.hit("get", "x", "robot").len(), 1);
    }

    #[test]
    fn the_same_seed_hits_the_same_requests() {
        let run = |seed| {
            let mut faults = Faults::default();
            faults.seed(seed);
            faults.add(Fault::status(500).per_mille(300));
            (0..200)
                .map(|_| faults.hit("get", "x", "").len())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let hits: usize = run(7).iter().sum();
        assert!((30..90).contains(&hits), "{hits}");
    }
}
