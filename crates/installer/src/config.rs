//! Which container runtime a machine has, and where its configuration takes
//! our handlers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::block::{self, BrokenBlock};
use crate::handler::{self, Handler, HandlerName, Naming, Schema};
use crate::runtime::{MICROK8S, Runtime, RuntimeVersion};
use crate::tree::{Content, FileError, Tree};
use crate::version::Version;

/// Largest configuration read, bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// containerd's configuration, when it is a service of its own.
const CONTAINERD: &str = "/etc/containerd/config.toml";

/// What containerd 2.2 and newer import without being told.
const CONF_D: &str = "/etc/containerd/conf.d";

/// Why a runtime cannot be configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// No known runtime.
    #[error(
        "there is no container runtime below `{}` (containerd, CRI-O, k3s, RKE2, k0s, microk8s, Podman); \
         install one, or name it with --runtime", .0.display()
    )]
    None(PathBuf),
    /// More than one.
    #[error("there is more than one container runtime: {0}; say which with --runtime")]
    Several(String),
    /// The configuration does not parse.
    #[error("`{}` cannot be understood; mend it first", path.display())]
    Unparsable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The configuration is no text.
    #[error("`{}` is no UTF-8 text; mend it first", .0.display())]
    NoText(PathBuf),
    /// Its marks are damaged.
    #[error("`{}` {problem}", path.display())]
    Block {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: BrokenBlock,
    },
    /// Our tables cannot be appended.
    #[error(
        "`{}` cannot take another handler at its end (are its runtimes an inline table?); \
         write them as `[plugins…runtimes.NAME]` tables", path.display()
    )]
    Closed {
        /// Which.
        path: PathBuf,
        /// What does not parse then.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Somebody else's handler has the name.
    #[error("`{}` has a handler `{name}` that is not ours; remove it, or choose another name with \
             --handler", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
        /// Which.
        name: HandlerName,
    },
    /// The version of containerd is needed and not known.
    #[error(
        "the version of {0} is not known: it does not answer; start it, or give \
             --runtime-version"
    )]
    Version(Runtime),
    /// Too old or too new.
    #[error("`{}` has `version = {found}`, which this program does not know", path.display())]
    Schema {
        /// Which.
        path: PathBuf,
        /// The number.
        found: i64,
    },
    /// The template of k3s or RKE2 imports nothing.
    #[error(
        "`{}` does not import `{wanted}`: this {runtime} is older than 1.31.6, or its template \
         config-v3.toml.tmpl lacks the line; add `imports = [\"{wanted}\"]` to the template \
         and restart {runtime}", path.display()
    )]
    NoImport {
        /// The generated configuration.
        path: PathBuf,
        /// What it should import.
        wanted: String,
        /// Which.
        runtime: Runtime,
    },
}

/// How our tables get into the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Form {
    /// A marked block at the end of somebody's file; the line a new file
    /// begins with.
    Block { schema: Schema, naming: Naming },
    /// A file of our own; its first lines.
    Containerd { schema: Schema, naming: Naming },
    /// A file of our own, for CRI-O.
    Crio,
    /// A file of our own, for Podman.
    Podman,
}

/// The file of a runtime's configuration that is ours, or that has a part
/// that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose.
    pub runtime: Runtime,
    /// The file that is written.
    pub path: PathBuf,
    /// The file a validator is given.
    pub main: PathBuf,
    form: Form,
}

const OWN: &str = "# Written by `bulkhead node install`, whole: changes are lost.\n";

impl Place {
    /// A file that is ours, and is all its runtime is asked about.
    fn own(runtime: Runtime, path: &str, form: Form) -> Self {
        Self {
            runtime,
            path: path.into(),
            main: path.into(),
            form,
        }
    }

    /// Whether the file is shared with its owner.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.form, Form::Block { .. })
    }

    /// What the file has to be, given what it is.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be, with what is there untouched.
    pub fn render(
        &self,
        now: Option<&str>,
        handlers: &[Handler],
        version: &Version,
    ) -> Result<String, ConfigError> {
        match &self.form {
            Form::Crio => Ok(format!("{OWN}{}", handler::crio(handlers, version))),
            Form::Podman => Ok(format!("{OWN}{}", handler::podman(handlers, version))),
            Form::Containerd { schema, naming } => {
                let tables = handler::containerd(handlers, version, *schema, *naming);
                Ok(format!("{OWN}version = {}\n{tables}", schema.number()))
            }
            Form::Block { schema, naming } => {
                let first = format!("version = {}\n", schema.number());
                let text = now.unwrap_or(&first);
                let alone = self.check_foreign(text, handlers)?;
                let mut tables = handler::containerd(handlers, version, *schema, *naming);
                if alone && !handlers.is_empty() {
                    tables.push_str(&handler::default_of(*schema));
                }
                let whole = block::with(text, &tables).map_err(|problem| self.broken(problem))?;
                match whole.parse::<toml::Table>() {
                    Ok(_) => Ok(whole),
                    Err(source) => Err(ConfigError::Closed {
                        path: self.path.clone(),
                        source: source.into(),
                    }),
                }
            }
        }
    }

    /// The file without our part; `None` when nothing is left that was there
    /// before us.
    ///
    /// # Errors
    /// [`ConfigError::Block`].
    pub fn take_out(&self, now: &str, was_there: bool) -> Result<Option<String>, ConfigError> {
        let Form::Block { schema, .. } = &self.form else {
            return Ok(None);
        };
        let rest = block::without(now).map_err(|problem| self.broken(problem))?;
        let only_ours = !was_there && rest == format!("version = {}\n", schema.number());
        Ok((!only_ours).then_some(rest))
    }

    /// The names of the handlers in a whole configuration of the runtime's.
    pub(crate) fn handlers_in(&self, config: &toml::Table) -> Vec<String> {
        let plugins = [Schema::Three, Schema::Two, Schema::One].map(Schema::plugin);
        let tables = plugins
            .iter()
            .filter_map(|id| handler::runtimes(config, &["plugins", id, "containerd", "runtimes"]))
            .chain(handler::runtimes(config, &["crio", "runtime", "runtimes"]));
        let mut names: Vec<String> = tables.flat_map(|table| table.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn broken(&self, problem: BrokenBlock) -> ConfigError {
        ConfigError::Block {
            path: self.path.clone(),
            problem,
        }
    }

    /// No handler outside of our block has a name of ours; whether there is none.
    fn check_foreign(&self, text: &str, handlers: &[Handler]) -> Result<bool, ConfigError> {
        let Form::Block { schema, .. } = &self.form else {
            return Ok(false);
        };
        let rest = block::without(text).map_err(|problem| self.broken(problem))?;
        let table = parse(&self.path, &rest)?;
        let foreign = handler::runtimes(
            &table,
            &["plugins", schema.plugin(), "containerd", "runtimes"],
        );
        let taken = |handler: &&Handler| {
            foreign.is_some_and(|table| table.contains_key(handler.name.as_str()))
        };
        match handlers.iter().find(taken) {
            Some(handler) => Err(ConfigError::Taken {
                path: self.path.clone(),
                name: handler.name.clone(),
            }),
            None => Ok(foreign.is_none_or(toml::Table::is_empty)),
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
    text.parse()
        .map_err(|source: toml::de::Error| ConfigError::Unparsable {
            path: path.to_owned(),
            source: source.into(),
        })
}

/// Reads a configuration as text.
pub(crate) fn read(tree: &Tree, path: &Path) -> Result<Option<(String, Content)>, ConfigError> {
    let Some(content) = tree.read(path, CONFIG_LIMIT)? else {
        return Ok(None);
    };
    match String::from_utf8(content.bytes.clone()) {
        Ok(text) => Ok(Some((text, content))),
        Err(_) => Err(ConfigError::NoText(path.to_owned())),
    }
}

/// The runtime of a machine.
///
/// # Errors
/// [`ConfigError::None`], [`ConfigError::Several`].
pub fn detect(tree: &Tree) -> Result<Runtime, ConfigError> {
    let mut found = Vec::new();
    for runtime in Runtime::ALL {
        if tree.kind(Path::new(runtime.trace()))?.is_some() {
            found.push(runtime);
        }
    }
    // Podman is found on many a cluster's node, for other things.
    if found.len() > 1 {
        found.retain(|runtime| *runtime != Runtime::Podman);
    }
    // Beside a distribution's own, a plain one is, too.
    let plain = |runtime: &Runtime| matches!(runtime, Runtime::Containerd | Runtime::Crio);
    if found.iter().any(|runtime| !plain(runtime)) {
        found.retain(|runtime| !plain(runtime));
    }
    match found[..] {
        [] => Err(ConfigError::None(tree.path().to_owned())),
        [one] => Ok(one),
        _ => {
            let words: Vec<_> = found.iter().map(|runtime| runtime.word()).collect();
            Err(ConfigError::Several(words.join(", ")))
        }
    }
}

/// Where a runtime's configuration takes our handlers. `version` is the
/// runtime's own, where it is known.
///
/// # Errors
/// [`ConfigError`], with what to do about it.
pub fn place(
    tree: &Tree,
    runtime: Runtime,
    version: Option<RuntimeVersion>,
) -> Result<Place, ConfigError> {
    let known = || version.ok_or(ConfigError::Version(runtime));
    match runtime {
        Runtime::Crio => {
            let path = "/etc/crio/crio.conf.d/50-bulkhead.conf";
            Ok(Place::own(runtime, path, Form::Crio))
        }
        Runtime::Podman => {
            let path = "/etc/containers/containers.conf.d/50-bulkhead.conf";
            Ok(Place::own(runtime, path, Form::Podman))
        }
        Runtime::K0s => {
            let version = known()?;
            let naming = naming(version);
            let schema = if version.0 >= 2 {
                Schema::Three
            } else {
                Schema::Two
            };
            let path = "/etc/k0s/containerd.d/bulkhead.toml";
            Ok(Place::own(
                runtime,
                path,
                Form::Containerd { schema, naming },
            ))
        }
        Runtime::K3s | Runtime::Rke2 => imported(tree, runtime, version),
        Runtime::Containerd => containerd(tree, known()?),
        Runtime::Microk8s => {
            let naming = naming(known()?);
            let main = PathBuf::from(MICROK8S);
            let config = read(tree, &main)?
                .map(|(text, _)| parse(&main, &text))
                .transpose()?;
            let schema = schema(&main, config.as_ref(), Schema::Two)?;
            Ok(Place {
                runtime,
                path: main.clone(),
                main,
                form: Form::Block { schema, naming },
            })
        }
    }
}

fn naming(version: RuntimeVersion) -> Naming {
    if version < RuntimeVersion(1, 7) {
        Naming::Type
    } else {
        Naming::Path
    }
}

/// k3s and RKE2 write the configuration anew at each start, from a template
/// that imports a directory; since they have containerd 2, which merges.
fn imported(
    tree: &Tree,
    runtime: Runtime,
    version: Option<RuntimeVersion>,
) -> Result<Place, ConfigError> {
    let merges = version.is_none_or(|version| version.0 >= 2);
    let dir = Path::new(runtime.trace());
    let main = dir.join("config.toml");
    let config = read(tree, &main)?
        .map(|(text, _)| parse(&main, &text))
        .transpose()?;
    let schema = schema(&main, config.as_ref(), Schema::Three)?;
    let own = if schema == Schema::Three {
        "config-v3.toml.d"
    } else {
        "config.toml.d"
    };
    let wanted = dir.join(own).join("*.toml").display().to_string();
    if !merges || !config.is_some_and(|config| imports(&config).contains(&wanted)) {
        return Err(ConfigError::NoImport {
            path: main,
            wanted,
            runtime,
        });
    }
    let path = dir.join(own).join("50-bulkhead.toml");
    Ok(Place {
        runtime,
        path,
        main,
        form: Form::Containerd {
            schema,
            naming: Naming::Path,
        },
    })
}

fn containerd(tree: &Tree, version: RuntimeVersion) -> Result<Place, ConfigError> {
    let main = PathBuf::from(CONTAINERD);
    let config = read(tree, &main)?
        .map(|(text, _)| parse(&main, &text))
        .transpose()?;
    let newest = if version.0 >= 2 {
        Schema::Three
    } else {
        Schema::Two
    };
    let schema = schema(&main, config.as_ref(), newest)?;
    let wanted = format!("{CONF_D}/*.toml");
    // Without a configuration, containerd 2.2 and newer import this.
    let imported = match &config {
        Some(config) => imports(config).contains(&wanted),
        None => version >= RuntimeVersion(2, 2),
    };
    // containerd 1 takes the whole CRI plugin's table from the last file that
    // has one: a file of our own would throw out everybody else's settings.
    let naming = naming(version);
    let own_file = version.0 >= 2 && imported;
    let (path, form) = if own_file {
        (
            Path::new(CONF_D).join("50-bulkhead.toml"),
            Form::Containerd { schema, naming },
        )
    } else {
        (main.clone(), Form::Block { schema, naming })
    };
    Ok(Place {
        runtime: Runtime::Containerd,
        path,
        main,
        form,
    })
}

fn imports(config: &toml::Table) -> Vec<String> {
    let list = config.get("imports").and_then(toml::Value::as_array);
    let texts = list.into_iter().flatten().filter_map(toml::Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The schema of a configuration; of none, the newest its runtime knows.
/// A file of our own has to have the same: containerd takes the higher for
/// all (containerd's pull request 12891).
fn schema(
    path: &Path,
    config: Option<&toml::Table>,
    newest: Schema,
) -> Result<Schema, ConfigError> {
    let Some(config) = config else {
        return Ok(newest);
    };
    match config.get("version").and_then(toml::Value::as_integer) {
        None | Some(1) => Ok(Schema::One),
        Some(2) => Ok(Schema::Two),
        Some(3) => Ok(Schema::Three),
        Some(found) => Err(ConfigError::Schema {
            path: path.to_owned(),
            found,
        }),
    }
}
