use std::io;

/// What a call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image file could not be written; a full disk ends up here.
    #[error("cannot write the EROFS image")]
    Write(#[source] io::Error),
    /// The caller's source of file data failed.
    #[error("cannot read the data of a file")]
    Source(#[source] io::Error),
    /// The source of file data ended too early.
    #[error("the data of a file ends after {got} of {want} bytes")]
    Truncated {
        /// Bytes announced.
        want: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A directory entry's name is empty, too long, `.`, `..`, or holds `/` or NUL.
    #[error("`{0}` is not a file name: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`")]
    Name(String),
    /// A file is larger than [`crate::FileData`] can describe.
    #[error("a file of {0} bytes is larger than the 16 TiB an image can hold")]
    FileSize(u64),
    /// The extents of a sparse file overlap, are out of order, or pass its end.
    #[error("the map of a sparse file is not ascending or passes the file's end")]
    SparseMap,
    /// A symbolic link's target is empty or longer than `PATH_MAX` - 1.
    #[error("a symbolic link's target has {0} bytes, allowed are 1 to 4095")]
    SymlinkLength(usize),
    /// An extended attribute's name has no prefix EROFS knows, or is too long.
    #[error(
        "cannot store the extended attribute `{0}`: EROFS knows user., trusted., security. and POSIX ACLs, names up to 255 bytes"
    )]
    XattrName(String),
    /// The extended attributes of one inode are too large.
    #[error("the extended attributes of one file take {0} bytes, more than EROFS can hold")]
    XattrSize(usize),
    /// A device number does not fit the 12 + 20 bits Linux has for it.
    #[error("device {major}:{minor} is out of range")]
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// More inodes than [`crate::Limits::inodes`].
    #[error("more than {0} files in one image; raise the limit if that is meant")]
    Inodes(u64),
    /// More metadata than [`crate::Limits::metadata`].
    #[error(
        "more than {0} bytes of names, attributes and small files in one image; raise the limit if that is meant"
    )]
    Metadata(u64),
    /// The image outgrew 2^32 blocks.
    #[error("the image is larger than the 16 TiB EROFS can address")]
    ImageSize,
    /// A call on a directory named something else.
    #[error("not a directory")]
    NotDirectory,
    /// A hard link to a directory was asked for.
    #[error("a directory cannot have a second name")]
    LinkDirectory,
}
