//! `bulkhead direct-volume`: the words are those of `kata-runtime`, which storage drivers
//! execute.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const EXAMPLES: &str = "A storage driver leaves a volume to the guest instead of mounting it:
  bulkhead direct-volume add --volume-path /var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/PV/mount \\
      --mount-info '{\"volume-type\":\"directvol\",\"device\":\"/dev/sdf\",\"fstype\":\"ext4\"}'
  bulkhead direct-volume stats --volume-path PATH
  bulkhead direct-volume resize --volume-path PATH --size 8589934592
  bulkhead direct-volume remove --volume-path PATH";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum DirectVolumeCommand {
    /// Say which disk a volume is, before a pod uses it
    Add {
        #[command(flatten)]
        volume: VolumeOption,
        /// As JSON: `device`, `fstype` (ext2, ext3, ext4), and, if need be, `options` (ro),
        /// `metadata` (fsGroup, fsGroupChangePolicy)
        #[arg(long, value_name = "JSON")]
        mount_info: String,
    },
    /// Forget it, when no pod uses it any more
    Remove(VolumeOption),
    /// Show how full its file system is, as JSON
    Stats(VolumeOption),
    /// Let its file system have all of the disk, which has grown
    Resize {
        #[command(flatten)]
        volume: VolumeOption,
        /// What the disk has at least by now, bytes
        #[arg(long, value_name = "BYTES")]
        size: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VolumeOption {
    /// Where the volume would be mounted on this host: what its pods have as the source
    #[arg(long, value_name = "PATH")]
    pub(crate) volume_path: PathBuf,
}
