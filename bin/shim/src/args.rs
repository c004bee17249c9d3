//! The command line containerd gives a shim.
//! containerd's core/runtime/v2/README.md, "Commands".

use std::ffi::OsString;
use std::path::PathBuf;

/// What `-help` prints.
pub(crate) const HELP: &str = "\
Runs a pod in its own virtual machine. containerd starts this program; put it on
containerd's PATH and name the runtime in a command or in containerd's configuration:

  ctr run --runtime io.containerd.bulkhead.v2 docker.io/library/alpine:latest demo uname -r

  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]
    runtime_type = \"io.containerd.bulkhead.v2\"

Options (as containerd gives them):
  -namespace NAME       containerd's namespace
  -id ID                the container
  -address PATH         containerd's socket
  -bundle PATH          the container's bundle
  -publish-binary PATH  ignored: events go over containerd's ttrpc socket
  -debug                say more in the log
  -owner DESCRIPTOR     end when this inherited descriptor can be read: a pidfd or a pipe
  -v                    print the version
  start | delete        what to do
";

/// Longest container id or namespace containerd gives, bytes.
const NAME_LIMIT: usize = bulkhead_protocol::name::NAME_LIMIT;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a pod's process, or find it, and print its address.
    Start,
    /// Take away what a killed process left.
    Delete,
    /// Be the pod's process; the number of the listening descriptor.
    Serve(i32),
    Version,
    Help,
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) debug: bool,
    /// The number of a descriptor: the pod ends when that can be read.
    pub(crate) owner: Option<i32>,
    pub(crate) action: Action,
}

impl Args {
    /// Parses the words after the program's name.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words.map(|word| {
            word.into_string()
                .map_err(|word| format!("`{}` is no UTF-8", word.display()))
        });
        let mut args = Self {
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
            owner: None,
            action: Action::Help,
        };
        while let Some(word) = words.next() {
            let word = word?;
            let flag = word.strip_prefix('-').map(|f| f.trim_start_matches('-'));
            let mut value = || {
                words
                    .next()
                    .unwrap_or_else(|| Err(format!("`{word}` needs a value")))
            };
            match flag {
                Some("namespace") => args.namespace = name(&value()?)?,
                Some("id") => args.id = name(&value()?)?,
                Some("address") => args.address = value()?,
                Some("bundle") => args.bundle = Some(value()?.into()),
                Some("publish-binary" | "socket") => drop(value()?),
                Some("debug") => args.debug = true,
                Some("owner") => args.owner = Some(descriptor(&value()?)?),
                Some("v" | "version") => args.action = Action::Version,
                Some("h" | "help") => args.action = Action::Help,
                Some(_) => return Err(format!("no option `{word}`; see -help")),
                None => args.action = action(&word, value)?,
            }
        }
        args.complete()
    }

    fn complete(self) -> Result<Self, String> {
        let named = matches!(self.action, Action::Version | Action::Help)
            || !(self.namespace.is_empty() || self.id.is_empty());
        if named {
            Ok(self)
        } else {
            Err("-namespace and -id are needed; containerd gives them, see -help".to_owned())
        }
    }
}

fn action(word: &str, mut value: impl FnMut() -> Result<String, String>) -> Result<Action, String> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "serve" => Ok(Action::Serve(descriptor(&value()?)?)),
        other => Err(format!("nothing to do that is called `{other}`; see -help")),
    }
}

fn descriptor(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| *number > 2);
    number.ok_or_else(|| format!("`{text}` is no descriptor that was handed over"))
}

/// Ids become names of directories.
fn name(text: &str) -> Result<String, String> {
    bulkhead_protocol::name::check(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("{error} (at most {NAME_LIMIT})"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_line_is_understood() {
        let line = "-namespace k8s.io -address /run/containerd/containerd.sock \
                    -publish-binary /usr/bin/containerd -id abc -bundle /b -debug delete";
        let args = parse(line).unwrap();
        assert_eq!(args.namespace, "k8s.io");
        assert_eq!(args.action, Action::Delete);
        assert!(args.debug && args.bundle.is_some());
    }

    #[test]
    fn ids_that_could_leave_their_directory_are_refused() {
        for id in ["../x", "a/b", ".", "-x"] {
            assert!(parse(&format!("-namespace n -id {id} start")).is_err());
        }
        assert!(parse("start").unwrap_err().contains("-id"));
        assert!(parse("-namespace n -id x serve 1").is_err());
    }

    proptest! {
        #[test]
        fn no_words_panic(words in proptest::collection::vec(".*", 0..8)) {
            let _ = Args::parse(words.into_iter().map(OsString::from));
        }
    }
}
