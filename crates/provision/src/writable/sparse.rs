//! Copies of files that are mostly holes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes that are not holes at most: what an empty disk of some 300 GiB has.
const DATA_LIMIT: u64 = 4 << 20;

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// Copies what is not a hole between two files of `bytes`, the second a hole.
///
/// # Errors
/// What the operating system says, and a file with too much in it.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    let mut end = 0;
    while end < bytes {
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            // Holes to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(bytes);
        copied += end - start;
        if copied > DATA_LIMIT {
            return Err(io::Error::other("more than an empty disk has"));
        }
        copy_extent(from, to, start, end, &mut buffer)?;
    }
    Ok(())
}

fn copy_extent(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = rustix::io::pread(from, &mut buffer[..want], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let written = rustix::io::pwrite(to, rest, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
            at += written as u64;
        }
    }
    Ok(())
}
