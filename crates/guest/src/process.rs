//! Programs a build runs: output to a log file, its end quoted on failure.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Lines quoted when a program fails.
const TAIL: usize = 15;

/// Runs a program to its end; each line of its output goes to `log` and to `line`.
pub(crate) fn run(
    command: &mut Command,
    package: &'static str,
    log: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(Error::file("write", log))?;
    let errors = file.try_clone().map_err(Error::file("write", log))?;
    let missing = |source| Error::MissingTool {
        program: program.clone(),
        package,
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(missing)?;
    if let Some(out) = child.stdout.take() {
        for text in BufReader::new(out)
            .lines()
            .map_while(std::result::Result::ok)
        {
            let _ = writeln!(file, "{text}");
            line(&text);
        }
    }
    let status = child.wait().map_err(Error::file("run", &program))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    Err(Error::Tool {
        program,
        status: status.to_string(),
        tail: lines[lines.len().saturating_sub(TAIL)..].join("\n"),
        log: log.display().to_string(),
    })
}

/// What a program prints.
pub(crate) fn output(command: &mut Command, package: &'static str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let missing = |source| Error::MissingTool {
        program: program.clone(),
        package,
        source,
    };
    let output = command.env("LC_ALL", "C").output().map_err(missing)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
