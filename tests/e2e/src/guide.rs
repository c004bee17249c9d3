//! Guides, as far as programs can follow them.

use std::path::Path;

use crate::Answer;

/// A command of a guide, how it is run here (empty: as it is), and what it has to print.
pub type Command = (&'static str, &'static str, &'static str);

/// The commands of `docs/guides/NAME.md`: the lines between fences of shell, without
/// what is said beside them.
#[must_use]
pub fn guide(name: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides");
    let guide = std::fs::read_to_string(dir.join(name).with_extension("md")).unwrap();
    let blocks = guide.split("```sh\n").skip(1);
    let texts = blocks.filter_map(|block| block.split("```").next());
    let lines = texts.flat_map(str::lines).map(|line| {
        let command = line.split("  #").next().unwrap_or_default();
        command.trim().to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect()
}

/// Runs what a guide told, as it is run here. Each has to be known.
pub fn follow(
    told: Vec<String>,
    known: &[Command],
    fill: impl Fn(&str) -> String,
    run: impl Fn(&str) -> Answer,
) {
    for command in told {
        let own = known.iter().find(|(own, ..)| *own == command);
        let (_, here, expected) = own.unwrap_or_else(|| panic!("nobody tries `{command}`"));
        let here = if here.is_empty() { &command } else { *here };
        let answer = run(&fill(here));
        assert_eq!(answer.code, 0, "`{command}`: {answer:?}");
        assert!(answer.out.contains(expected), "`{command}`: {answer:?}");
    }
}
