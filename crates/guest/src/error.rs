//! What can go wrong while building or opening a guest.

use std::io;
use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a guest could not be built, found or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program needed for a build is not installed.
    #[error("cannot run `{program}`; install it with `apt-get install {package}`")]
    MissingTool {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{program}` failed ({status}); its last lines were:\n{tail}\nwhole output: {log}")]
    Tool {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        tail: String,
        /// The file with all it wrote, or why there is none.
        log: String,
    },
    /// A program answered something this crate does not understand.
    #[error("`{program}` answered `{answer}`, which is not {expected}")]
    Answer {
        /// The program.
        program: &'static str,
        /// What it said, shortened.
        answer: String,
        /// What was looked for.
        expected: &'static str,
    },
    /// The package sources of this machine do not offer a package.
    #[error(
        "no package `{package}` in this machine's package sources, nor in their backports; \
         run `apt-get update`, or choose the other kernel with `--kernel`"
    )]
    NoPackage {
        /// The package.
        package: String,
    },
    /// The kernel's build dropped options that were asked for.
    #[error(
        "the kernel's configuration lost {}: a parent option is missing or the name changed; \
         correct `guest/kernel/*.config`",
        .lost.join(", ")
    )]
    LostOptions {
        /// Each option with the value asked for and the value it got.
        lost: Vec<String>,
    },
    /// A configuration fragment has a line that is no option.
    #[error("line {line} of the kernel options is not `CONFIG_NAME=value`: `{text}`")]
    Fragment {
        /// The line, from 1.
        line: usize,
        /// The line's text, shortened.
        text: String,
    },
    /// A built file lacks something a guest needs.
    #[error("`{file}` of the built kernel {problem}")]
    BadKernel {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The agent is not a program that can be the guest's first process.
    #[error("the agent `{}` {problem}; build it with `cargo xtask guest`", path.display())]
    BadAgent {
        /// The file given as agent.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A manifest could not be understood.
    #[error("the manifest of guest `{}` {problem}; build it again with `bulkhead guest build`", path.display())]
    Manifest {
        /// The guest's directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of a guest does not have the digest its manifest names.
    #[error(
        "`{file}` of guest `{}` was changed after it was built; remove the guest with \
         `bulkhead guest prune --all` and build it again", path.display()
    )]
    Digest {
        /// The guest's directory.
        path: PathBuf,
        /// The file within it.
        file: String,
    },
    /// No guest of the wanted kind has been built.
    #[error("no guest image in `{}`; build one with `bulkhead guest build`", path.display())]
    NoGuest {
        /// The cache that was searched.
        path: PathBuf,
    },
    /// No place for the cache can be derived from the environment.
    #[error("no place for the guest cache; set `BULKHEAD_GUEST_CACHE` to a directory")]
    NoCachePlace,
}

impl Error {
    /// For `map_err`: names the file an action failed on.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        let path = path.into();
        move |source| Error::File {
            action,
            path,
            source: source.into(),
        }
    }
}
