//! Container images of the operator and the node agent, made without a daemon:
//! OCI layouts, by `umoci`. Nothing is in them but programs, the C library
//! they were linked with, and what the node agent installs.

mod layout;
mod libraries;

use std::path::{Path, PathBuf};

use bulkhead_guest::{Cache, Preference};

use crate::run::{self, Outcome};
use layout::{Image, Tree};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which images, of what, and where to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where the layouts go
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// Take the programs of this directory [default: they are built for release]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only this image, by its name
    #[arg(long, value_enum)]
    only: Option<Name>,
}

impl Options {
    /// All images, of programs that are built.
    pub(crate) fn of(programs: &Path, out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            programs: Some(programs.to_owned()),
            only: None,
        }
    }
}

/// The images there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// The operator's
    Operator,
    /// The node agent's, with what it installs
    NodeAgent,
}

/// Makes the images and says where they are.
pub(crate) fn run(options: &Options) -> Outcome {
    let programs = match &options.programs {
        Some(dir) => dir.clone(),
        None => build()?,
    };
    for name in [Name::Operator, Name::NodeAgent] {
        if options.only.is_some_and(|only| only != name) {
            continue;
        }
        let image = match name {
            Name::Operator => operator(&programs)?,
            Name::NodeAgent => node_agent(&programs)?,
        };
        let layout = options.out.join(image.name);
        image.write(&layout, VERSION)?;
        println!("{}:{VERSION}", layout.display());
    }
    Ok(())
}

fn build() -> Outcome<PathBuf> {
    let mut build = run::cargo();
    build.args(["build", "--release"]);
    for package in [
        "bulkhead",
        "bulkhead-shim",
        "bulkhead-operator",
        "bulkhead-node-agent",
    ] {
        build.args(["--package", package]);
    }
    run::command(&mut build)?;
    Ok(run::workspace().join("target/release"))
}

fn operator(programs: &Path) -> Outcome<Image> {
    let program = programs.join("bulkhead-operator");
    let mut tree = Tree::new()?;
    tree.add_libraries(&[&program])?;
    tree.add(&program, "bulkhead-operator")?;
    Ok(Image {
        name: "bulkhead-operator",
        entrypoint: "/bulkhead-operator",
        // Nobody's on any distribution; Kubernetes wants a number.
        user: "65532:65532",
        tree,
    })
}

fn node_agent(programs: &Path) -> Outcome<Image> {
    let agent = programs.join("bulkhead-node-agent");
    let runtime = programs.join("bulkhead");
    let shim = programs.join("containerd-shim-bulkhead-v2");
    let mut tree = Tree::new()?;
    // Of what is run in the image; the shim is run by the node.
    tree.add_libraries(&[&agent, &runtime])?;
    tree.add(&agent, "bulkhead-node-agent")?;
    tree.add(&runtime, "payload/bulkhead")?;
    tree.add(&shim, "payload/containerd-shim-bulkhead-v2")?;
    let cache = Cache::default_root().and_then(|root| Cache::open(&root));
    let guest = cache.and_then(|cache| cache.find(Preference::Auto));
    let guest = guest.map_err(|error| format!("{error}: run `cargo xtask guest`"))?;
    let name = guest.dir().file_name().unwrap_or_default();
    let below = Path::new("payload/guest/guests").join(name);
    for file in ["kernel", "initramfs", "manifest.json"] {
        tree.add(&guest.dir().join(file), below.join(file))?;
    }
    Ok(Image {
        name: "bulkhead-node-agent",
        entrypoint: "/bulkhead-node-agent",
        user: "0:0",
        tree,
    })
}
