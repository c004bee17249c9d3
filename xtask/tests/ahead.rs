//! docs/reference/ahead.md, held: every test it names is there and is one, and
//! what it says of the agent's calls is so.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tree;

use tree::{all_sources, workspace};

/// Gaps the document answers, each in a row of its own.
const GAPS: usize = 16;

fn document() -> String {
    std::fs::read_to_string(workspace().join("docs/reference/ahead.md")).unwrap()
}

/// What is written in code of the form `file.rs::name`.
fn named(text: &str) -> Vec<(&str, &str)> {
    let words = text.split('`').skip(1).step_by(2);
    let pairs = words.filter_map(|word| word.split_once("::"));
    pairs.filter(|(file, _)| file.ends_with(".rs")).collect()
}

/// Whether a function of this name is marked as a test.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let head = format!("fn {name}(");
    let at = lines.iter().position(|line| line.contains(&head));
    let marks = |at: usize| lines[..at].iter().rev().take(3);
    at.is_some_and(|at| marks(at).any(|line| is_mark(line)))
}

fn is_mark(line: &str) -> bool {
    let line = line.trim();
    line == "#[test]" || line.starts_with("#[tokio::test")
}

#[test]
fn every_test_the_document_names_is_there() {
    let all = all_sources();
    let text = document();
    for (file, name) in named(&text) {
        let own = all.iter().filter(|path| path.ends_with(file));
        let texts = own.map(|path| std::fs::read_to_string(path).unwrap());
        let texts: Vec<String> = texts.collect();
        assert!(!texts.is_empty(), "there is no `{file}`");
        let found = texts.iter().any(|text| has_test(text, name));
        assert!(found, "`{file}` has no test `{name}`");
    }
}

#[test]
fn every_gap_has_a_test_or_a_reason_for_none() {
    let text = document();
    for number in 1..=GAPS {
        let head = format!("| {number} | ");
        let row = text.lines().find(|line| line.starts_with(&head));
        let row = row.unwrap_or_else(|| panic!("no row {number}"));
        let answered = !named(row).is_empty() || row.contains("nothing to test");
        assert!(answered, "row {number} names no test");
    }
}

/// What a process reads and writes is a stream beside the calls: none of them
/// has bytes but a spec, a process, limits, a filter, and what the guest is told
/// of its network.
#[test]
fn no_call_of_the_agent_carries_output() {
    let path = workspace().join("crates/protocol/proto/agent.proto");
    let text = std::fs::read_to_string(path).unwrap();
    let bytes = text.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches("repeated ");
        line.strip_prefix("bytes ")?.split(' ').next()
    });
    for name in bytes {
        let container = ["spec", "process", "resources", "seccomp"].contains(&name);
        let network = ["routes", "rules", "neighbours"].contains(&name);
        assert!(container || network, "`{name}` may be output");
    }
}

#[test]
fn a_name_without_its_test_would_be_noticed() {
    let text = "#[test]\nfn is_there() {\n}\n\nfn is_none() {}\n";
    assert!(has_test(text, "is_there"));
    assert!(!has_test(text, "is_none"));
    assert!(!has_test(text, "is_gone"));
    assert_eq!(named("by `a.rs::b`, not `c::d`"), [("a.rs", "b")]);
}
