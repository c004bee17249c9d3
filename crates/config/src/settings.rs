//! The description of each setting.

use toml::Value;

/// What a setting may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number between these two.
    Number(i64, i64),
    /// Yes or no.
    Switch,
    /// An absolute path.
    Path,
    /// Names of settings a pod may set.
    Settings,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the file.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub what: &'static str,
    /// What it may be.
    pub range: Range,
    /// The administrator may leave it to the pods.
    pub by_pod: bool,
}

const fn setting(name: &'static str, range: Range, what: &'static str) -> Setting {
    Setting {
        name,
        what,
        range,
        by_pod: false,
    }
}

const fn of_pods(name: &'static str, range: Range, what: &'static str) -> Setting {
    Setting {
        by_pod: true,
        ..setting(name, range, what)
    }
}

/// All of them.
pub const SETTINGS: [Setting; 18] = [
    setting(
        "accelerator",
        Range::Words(&["auto", "kvm", "tcg"]),
        "What runs the guests: `auto` is KVM where it is usable and else emulation, which is slow \
         and no boundary.",
    ),
    setting(
        "kernel",
        Range::Words(&["auto", "tuned", "distro"]),
        "Which guest kernel boots: `auto` is the tuned one where it is built.",
    ),
    setting(
        "guests",
        Range::Path,
        "Directory of built guests; unset: /var/cache/bulkhead/guest.",
    ),
    of_pods(
        "vcpus",
        Range::Number(1, 255),
        "vCPUs of a pod without a CPU limit.",
    ),
    of_pods(
        "memory_mib",
        Range::Number(64, 1 << 24),
        "Memory of the machine of a pod without a memory limit, MiB.",
    ),
    setting(
        "grow_vcpus",
        Range::Number(0, 64),
        "vCPUs the machine of a pod with a CPU limit can be given beside those of its start, when \
         the limits of its containers are raised; never more than the host has.",
    ),
    setting(
        "grow_memory_mib",
        Range::Number(0, 1 << 24),
        "Memory the machine of a pod whose control group has a memory limit can be given beside \
         that of its start, when the limits of its containers are raised, MiB, in whole blocks of \
         128.",
    ),
    setting(
        "guest_overhead_mib",
        Range::Number(0, 4096),
        "Memory added to a pod's limit for the guest's kernel and agent, MiB.",
    ),
    setting(
        "host_overhead_mib",
        Range::Number(0, 4096),
        "Memory of the host a machine takes beside its own, for the monitor, the file server and \
         the shim, MiB.",
    ),
    of_pods(
        "storage_mib",
        Range::Number(16, 1 << 26),
        "Room for what a pod's containers write to their root filesystems, MiB.",
    ),
    setting(
        "layers",
        Range::Path,
        "Directory of layers of snapshots as images; unset: /var/lib/bulkhead/layers.",
    ),
    setting(
        "layers_mib",
        Range::Number(0, 1 << 26),
        "Room for layers of overlayfs snapshots as images, which a guest reads faster than what is \
         shared, MiB; 0: there are none.",
    ),
    setting(
        "layers_reserve",
        Range::Number(0, 100),
        "No image is made that would leave less than so many percent of that file system free.",
    ),
    setting(
        "start_timeout",
        Range::Number(1, 3600),
        "How long each phase of a start may take, seconds.",
    ),
    setting(
        "debug",
        Range::Switch,
        "`bulkhead debug` may run a shell in a pod's guest and show its console.",
    ),
    setting(
        "log_level",
        Range::Words(&["error", "warn", "info", "debug", "trace"]),
        "How much a pod's shim writes to the log of the container manager, which may ask for more \
         by its own level.",
    ),
    setting(
        "trace",
        Range::Switch,
        "The pod tells each call's beginning and end, and the parts of its start, to \
         `bulkhead monitor --otlp`.",
    ),
    setting(
        "annotations",
        Range::Settings,
        "Settings a pod may set for itself by the annotation `io.bulkhead.NAME`; none by default.",
    ),
];

/// The setting of this name.
pub(crate) fn named(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

impl Setting {
    /// Is this value in its range?
    pub fn takes(&self, value: &Value) -> bool {
        match (self.range, value) {
            (Range::Words(words), Value::String(word)) => words.contains(&word.as_str()),
            (Range::Number(least, most), Value::Integer(number)) => (least..=most).contains(number),
            (Range::Switch, Value::Boolean(_)) => true,
            (Range::Path, Value::String(path)) => path.starts_with('/'),
            (Range::Settings, Value::Array(names)) => names.iter().all(|name| {
                let known = name.as_str().and_then(named);
                known.is_some_and(|setting| setting.by_pod)
            }),
            _ => false,
        }
    }

    /// A text, of an annotation or an argument, as a value of this setting's
    /// kind; the items of a list are between commas.
    pub fn read(&self, text: &str) -> Value {
        let string = |text: &str| Value::String(text.to_owned());
        if let (Range::Switch, Ok(yes)) = (self.range, text.parse()) {
            return Value::Boolean(yes);
        }
        match (self.range, text.parse()) {
            (Range::Number(..), Ok(number)) => Value::Integer(number),
            (Range::Settings, _) => Value::Array(text.split(',').map(string).collect()),
            _ => string(text),
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = |words: &[&str]| -> String {
            let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            quoted.join(", ")
        };
        match self {
            Self::Words(list) => write!(f, "one of {}", words(list)),
            Self::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Self::Switch => f.write_str("`true` or `false`"),
            Self::Path => f.write_str("an absolute path"),
            Self::Settings => {
                let own = SETTINGS.iter().filter(|setting| setting.by_pod);
                let names: Vec<_> = own.map(|setting| setting.name).collect();
                write!(f, "a list of some of {}", words(&names))
            }
        }
    }
}
