//! Numbers and fixed structures of the on-disk format (`fs/erofs/erofs_fs.h`).

use crc::{CRC_32_ISCSI, Crc};

use crate::Device;

/// Size of a block in bytes: the page size, so that every kernel can mount it.
pub const BLOCK_SIZE: u64 = 4096;
/// Longest name of a directory entry in bytes.
pub const NAME_MAX: usize = 255;

pub(crate) const BLOCK_BITS: u8 = 12;
pub(crate) const SUPER_OFFSET: u64 = 1024;
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
pub(crate) const SLOT: u64 = 32;
pub(crate) const INODE_LEN: usize = 64;
pub(crate) const DIRENT_LEN: usize = 12;
pub(crate) const NULL_BLOCK: u32 = u32::MAX;
pub(crate) const SYMLINK_MAX: usize = 4095;

const COMPAT_SB_CHKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

pub(crate) const FLAT_PLAIN: u16 = 0;
pub(crate) const FLAT_INLINE: u16 = 2;
pub(crate) const CHUNK_BASED: u16 = 4;

pub(crate) const S_IFMT: u16 = 0o170000;
pub(crate) const S_IFSOCK: u16 = 0o140000;
pub(crate) const S_IFLNK: u16 = 0o120000;
pub(crate) const S_IFREG: u16 = 0o100000;
pub(crate) const S_IFBLK: u16 = 0o060000;
pub(crate) const S_IFDIR: u16 = 0o040000;
pub(crate) const S_IFCHR: u16 = 0o020000;
pub(crate) const S_IFIFO: u16 = 0o010000;

/// `struct erofs_super_block`, the fields this crate uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) root_nid: u16,
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    pub(crate) meta_block: u32,
    pub(crate) incompat: u32,
}

impl Superblock {
    /// The whole of block 0. Its checksum covers everything from the superblock on.
    pub(crate) fn block(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_SIZE as usize];
        let sb = &mut block[SUPER_OFFSET as usize..];
        put(sb, 0, &MAGIC.to_le_bytes());
        put(sb, 8, &(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        sb[12] = BLOCK_BITS;
        put(sb, 14, &self.root_nid.to_le_bytes());
        put(sb, 16, &self.inodes.to_le_bytes());
        put(sb, 36, &self.blocks.to_le_bytes());
        put(sb, 40, &self.meta_block.to_le_bytes());
        put(sb, 80, &self.incompat.to_le_bytes());
        let sum = checksum(sb);
        put(sb, 4, &sum.to_le_bytes());
        block
    }
}

/// CRC-32C without the final inversion, as `crc32c(~0, …)` of the kernel gives it.
fn checksum(bytes: &[u8]) -> u32 {
    !Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes)
}

/// `new_encode_dev` of the kernel.
pub(crate) fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
}

/// `FT_*` of a directory entry, from the file type bits of a mode.
pub(crate) fn file_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFSOCK => 6,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// Copies `bytes` to `at`; the callers' buffers are of fixed, larger size.
pub(crate) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_is_where_the_kernel_looks() {
        let block = Superblock {
            root_nid: 2,
            inodes: 9,
            blocks: 4,
            meta_block: 3,
            incompat: 0,
        }
        .block();
        assert_eq!(block[1024..1028], MAGIC.to_le_bytes());
        assert_eq!(block[1024 + 36], 4);
    }

    #[test]
    fn device_numbers_are_spread_as_the_kernel_does() {
        assert_eq!(encode_device(Device { major: 8, minor: 1 }), 0x801);
        assert_eq!(
            encode_device(Device {
                major: 259,
                minor: 0x12345
            }),
            0x1231_0345 & 0xfff0_00ff | 259 << 8
        );
    }
}
