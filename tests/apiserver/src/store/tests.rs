use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Remove(u8),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..6, any::<u8>()).prop_map(|(name, value)| Step::Put(name, value)),
        3 => (0u8..6).prop_map(Step::Remove),
        1 => Just(Step::Forget),
    ]
}

fn kind() -> Kind {
    Kind {
        group: String::new(),
        plural: "things".into(),
    }
}

fn name(number: u8) -> Name {
    Name {
        namespace: format!("n{}", number % 2),
        name: format!("x{number}"),
    }
}

fn run(store: &mut Store, step: &Step) {
    match *step {
        Step::Put(number, value) => {
            store.put(&kind(), &name(number), json!({ "value": value }));
        }
        Step::Remove(number) => {
            if let Some(live) = store.get(&kind(), &name(number)).cloned() {
                store.remove(&kind(), &name(number), Value::clone(&live));
            }
        }
        Step::Forget => store.forget(),
    }
}

fn listed(store: &Store) -> BTreeMap<Name, Arc<Value>> {
    let all = store.list(&kind(), "");
    all.map(|(name, object)| (name.clone(), Arc::clone(object)))
        .collect()
}

proptest! {
    /// From any list, the changes after it lead to the list at the end, or are known to be lost.
    #[test]
    fn a_list_and_what_follows_is_the_later_list(
        steps in prop::collection::vec(step(), 0..60),
        begin in 0usize..60,
        limit in 1usize..40,
    ) {
        let mut store = Store::new(limit);
        let (before, after) = steps.split_at(begin.min(steps.len()));
        before.iter().for_each(|step| run(&mut store, step));
        let (mut seen, version) = (listed(&store), store.version());
        after.iter().for_each(|step| run(&mut store, step));
        let lost = after.iter().any(|step| matches!(step, Step::Forget));
        match store.since(version) {
            Ok(changes) => {
                for change in changes {
                    let before = match change.happened {
                        Happened::Deleted => seen.remove(&change.name),
                        _ => seen.insert(change.name.clone(), Arc::clone(&change.object)),
                    };
                    prop_assert_eq!(&before, &change.before);
                    prop_assert_eq!(before.is_none(), change.happened == Happened::Added);
                }
                prop_assert_eq!(seen, listed(&store));
            }
            Err(forgotten) => {
                prop_assert!(lost || after.len() > limit);
                prop_assert_eq!(forgotten.asked, version);
                prop_assert!(forgotten.oldest > version);
            }
        }
    }

    /// Every change has a version of its own, and its object says so.
    #[test]
    fn versions_only_grow(steps in prop::collection::vec(step(), 0..60)) {
        let mut store = Store::new(1000);
        let mut last = store.version();
        for step in &steps {
            run(&mut store, step);
            prop_assert!(store.version() >= last);
            let new = match store.since(last) {
                Ok(changes) => changes.map(|change| {
                    (change.version, object::version(&change.object))
                }).collect::<Vec<_>>(),
                Err(_) => Vec::new(),
            };
            for (version, told) in new {
                prop_assert!(version > last);
                prop_assert_eq!(version, told);
                last = version;
            }
            last = store.version();
        }
    }
}

#[test]
fn only_the_last_changes_are_known() {
    let mut store = Store::new(2);
    for value in 0..4 {
        run(&mut store, &Step::Put(0, value));
    }
    let now = store.version();
    assert_eq!(store.since(now - 2).map(Iterator::count), Ok(2));
    let oldest = now - 2;
    let lost = store.since(now - 3).map(Iterator::count);
    assert_eq!(
        lost,
        Err(Forgotten {
            asked: now - 3,
            oldest
        })
    );
}
