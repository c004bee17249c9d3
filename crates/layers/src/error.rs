use std::io;
use std::path::PathBuf;

/// Why a layer has no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory of images.
    #[error("the directory of layers `{path}` cannot be used")]
    Cache {
        /// Where it should be.
        path: PathBuf,
        #[source]
        /// What the kernel says.
        source: io::Error,
    },
    /// The layer, or a file of it, could not be read.
    #[error("the layer cannot be read at `{name}`")]
    Read {
        /// The last part of its path.
        name: String,
        #[source]
        /// What the kernel says.
        source: io::Error,
    },
    /// The layer says of a file what only the file system it lies on can mean.
    #[error("`{name}` has the attribute `{attribute}`, which needs the layers below")]
    Overlay {
        /// The last part of its path.
        name: String,
        /// The extended attribute.
        attribute: String,
    },
    /// Deeper than [`Bounds::depth`](crate::Bounds::depth).
    #[error("directories lie more than {0} deep")]
    Depth(usize),
    /// More than [`Bounds::bytes`](crate::Bounds::bytes).
    #[error("it holds more than {0} bytes")]
    Bytes(u64),
    /// It changed while it was read, as no layer does.
    #[error("`{0}` changed meanwhile")]
    Changed(String),
    /// The image could not be written.
    #[error(transparent)]
    Erofs(#[from] bulkhead_erofs::Error),
    /// The image could not be kept.
    #[error("the image cannot be kept")]
    Keep(#[source] io::Error),
    /// Its file system has too little room.
    #[error("no more than the {0} percent are free that are to stay free where images are kept")]
    Full(u8),
}

impl Error {
    /// Would another try end alike? Then it is remembered.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Overlay { .. } | Self::Depth(_) | Self::Bytes(_) => true,
            Self::Erofs(error) => !matches!(
                error,
                bulkhead_erofs::Error::Write(_)
                    | bulkhead_erofs::Error::Source(_)
                    | bulkhead_erofs::Error::Truncated { .. }
            ),
            _ => false,
        }
    }
}
