use std::io;
use std::path::PathBuf;

/// What a call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reference is malformed.
    #[error("`{reference}` is no image: {problem}")]
    Reference {
        /// What was written.
        reference: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A registry refused, or could not be talked to.
    #[error("`{image}` cannot be pulled{hint}")]
    Registry {
        /// The image's whole name.
        image: String,
        /// The way out, if one is known.
        hint: String,
        /// What the registry or the network says.
        #[source]
        source: Box<oci_client::errors::OciDistributionError>,
    },
    /// What `podman login` or `docker login` wrote down is no use.
    #[error("the credentials for `{registry}` cannot be used")]
    Credentials {
        /// The registry.
        registry: String,
        /// What is wrong with them.
        #[source]
        source: Box<docker_credential::CredentialRetrievalError>,
    },
    /// A file of a source or the store.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A part of the image is missing.
    #[error("the image lacks its {what} `{name}`")]
    Missing {
        /// Kind of part.
        what: &'static str,
        /// Its digest, tag or path.
        name: String,
    },
    /// A part of the image has other bytes than announced.
    #[error("the blob `{digest}` is damaged: {problem}")]
    Blob {
        /// The digest it should have.
        digest: String,
        /// What is wrong.
        problem: String,
    },
    /// A document is malformed.
    #[error("the image's {what} is malformed")]
    Document {
        /// Which document.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The image is not for this machine or not of a kind that can run.
    #[error("the image cannot run here: {0}")]
    Unfit(String),
    /// A limit was passed.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// An entry of a layer is refused.
    #[error("the layer `{layer}` holds `{entry}`, which is refused: {problem}")]
    Entry {
        /// diffID of the layer.
        layer: String,
        /// Path of the entry.
        entry: String,
        /// Why.
        problem: String,
    },
    /// A layer's archive broke off or is none.
    #[error("the layer `{layer}` cannot be read")]
    Layer {
        /// diffID of the layer.
        layer: String,
        /// What the reader says.
        #[source]
        source: io::Error,
    },
    /// A layer could not be converted.
    #[error("the layer `{layer}` cannot be stored")]
    Convert {
        /// diffID of the layer.
        layer: String,
        /// What the writer says.
        #[source]
        source: bulkhead_erofs::Error,
    },
    /// Not in the store.
    #[error("no image `{0}` in the store; `bulkhead image ls` lists them")]
    NotFound(String),
    /// Layers cannot be removed now.
    #[error(
        "an image is being pulled, and its layers are not told from unused ones; prune again when it has arrived"
    )]
    Pulling,
    /// A container uses it.
    #[error("the image `{0}` is in use by a container")]
    InUse(String),
}

impl Error {
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
