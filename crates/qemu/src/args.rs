//! QEMU's command line: a pure function of numbers and fixed words.
//!
//! Nothing a tenant wrote can get here: disks are named by position, files by
//! descriptor number; the few strings (serials, tags) are checked.

use bulkhead_hypervisor::{Error, MEMORY_BLOCK, Spare};
use bulkhead_protocol_port::CHANNEL_PORT;

use crate::accel::Accelerator;
#[cfg(doc)]
use crate::find::Version;
use crate::spares::Slot;

/// `microvm` has 24 virtio-mmio slots; the channel, entropy, memory and some
/// networks and shares need theirs.
pub(crate) const DISK_LIMIT: usize = 8;

/// Slots of the machine.
const SLOTS: usize = 24;

/// Where `microvm` interrupts memory, and where it goes on, bytes: hw/i386/microvm.c.
const HOLE: (u64, u64) = (3 << 30, 4 << 30);

/// The guest's name for the agent's port. The same constant the agent knows;
/// this crate stands below the protocol crate, so a test compares the two.
mod bulkhead_protocol_port {
    pub(super) const CHANNEL_PORT: &str = "bulkhead.agent";
}

/// A machine in terms of descriptor numbers the child will see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) kernel: i32,
    pub(crate) initramfs: i32,
    pub(crate) cmdline: Vec<String>,
    pub(crate) vcpus: u32,
    pub(crate) memory: u64,
    pub(crate) spare: Spare,
    /// May emulated vCPUs run beside each other? [`Version::translates_in_parallel`].
    pub(crate) parallel: bool,
    pub(crate) disks: Vec<MachineDisk>,
    pub(crate) nets: Vec<MachineNet>,
    pub(crate) shares: Vec<MachineShare>,
    /// Disks of nothing, that something is plugged into later: read-only or not.
    pub(crate) spares: Vec<bool>,
    pub(crate) console: i32,
    pub(crate) qmp: i32,
    pub(crate) channel: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineDisk {
    pub(crate) serial: String,
    pub(crate) read_only: bool,
    /// The image, or the VMDK descriptor of a concatenation.
    pub(crate) file: i32,
    /// Files of a concatenation.
    pub(crate) extents: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetFd {
    Stream(i32),
    Tap(Vec<i32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineNet {
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    pub(crate) fd: NetFd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineShare {
    pub(crate) tag: String,
    pub(crate) socket: i32,
}

/// Set number of an inherited descriptor: the number itself, so that a VMDK
/// descriptor can be written before the command line.
pub(crate) fn fdset(fd: i32) -> String {
    format!("/dev/fdset/{fd}")
}

/// QEMU keeps what it translated of a page until the guest writes to it, and does not see
/// what a file server writes: a program read from a share into a page that had code before
/// would be that code. So the guest's kernel clears each page before it is used again.
/// kernel-parameters.txt.
const REUSED: &str = "init_on_alloc=1";

impl Machine {
    /// Checks what the machine cannot have.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let unsupported = |what: String| {
            Err(Error::Unsupported {
                backend: "qemu",
                what,
            })
        };
        let disks = self.disks.len() + self.spares.len();
        let used = disks + self.nets.len() + self.shares.len() + 3;
        if self.disks.len() > DISK_LIMIT || used > SLOTS {
            return unsupported(format!(
                "{} disks, {} networks and {} shares do not fit the machine's {SLOTS} slots; \
                 use fewer volumes",
                self.disks.len(),
                self.nets.len(),
                self.shares.len(),
            ));
        }
        let plain = |text: &str, limit: usize| {
            !text.is_empty()
                && text.len() <= limit
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        for disk in &self.disks {
            if !plain(&disk.serial, 20) {
                return unsupported(format!("a disk with the serial `{}`", disk.serial));
            }
        }
        for share in &self.shares {
            if !plain(&share.tag, 36) {
                return unsupported(format!("a share with the tag `{}`", share.tag));
            }
        }
        Ok(())
    }

    /// The arguments after the program's name.
    pub(crate) fn arguments(&self, accelerator: &Accelerator) -> Vec<String> {
        let mut args = Arguments::default();
        args.flag("-nodefaults")
            .flag("-no-user-config")
            .flag("-no-reboot");
        args.pair("-display", "none");
        args.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        self.platform(accelerator, &mut args);
        self.boot(accelerator, &mut args);
        self.connections(&mut args);
        for (index, disk) in self.disks.iter().enumerate() {
            disk.arguments(index, &mut args);
        }
        for (index, net) in self.nets.iter().enumerate() {
            net.arguments(index, &mut args);
        }
        for (index, share) in self.shares.iter().enumerate() {
            let id = format!("share{index}");
            args.pair("-chardev", format!("socket,id={id},fd={}", share.socket));
            args.pair(
                "-device",
                format!("vhost-user-fs-device,chardev={id},tag={}", share.tag),
            );
        }
        for (number, read_only) in self.spares.iter().enumerate() {
            spare(number, *read_only, &mut args);
        }
        args.list
    }

    fn platform(&self, accelerator: &Accelerator, args: &mut Arguments) {
        let mebibytes = self.all_memory() >> 20;
        match accelerator {
            Accelerator::Kvm { .. } => {
                args.pair("-accel", "kvm")
                    .pair("-cpu", "host,migratable=off");
            }
            // The translation buffer is host memory: 64 MiB hold a container's
            // hot code, the default would take a quarter of the guest's RAM.
            Accelerator::Tcg { .. } => {
                let thread = match self.parallel {
                    true => "multi",
                    false => "single",
                };
                args.pair("-accel", format!("tcg,thread={thread},tb-size=64"))
                    .pair("-cpu", "max");
            }
        }
        // Only a vhost-user server needs to map the guest's memory. Otherwise it
        // is anonymous: a private mapping of a file would hold two pages for
        // each that the guest writes, and get no huge ones.
        let backend = match self.shares.is_empty() {
            true => "memory-backend-ram",
            false => "memory-backend-memfd,share=on",
        };
        args.pair("-object", format!("{backend},id=ram,size={mebibytes}M"));
        // The firmware that puts what it tells of the machine where QEMU puts nothing
        // else (docs/design/0002-qemu-machine.md).
        args.pair("-bios", "qboot.rom");
        // No guest of reduced hardware, as ACPI calls this machine, sets up the old
        // timer and interrupt controller. What firmware leaves of them raised vector 0
        // in it: `divide error`.
        args.pair(
            "-M",
            "microvm,memory-backend=ram,rtc=on,pit=off,pic=off,pcie=off,usb=off,graphics=off",
        );
        args.pair("-m", format!("{mebibytes}M"));
        args.pair("-smp", self.processors(accelerator));
    }

    /// A barrier of an emulated vCPU that is the only one there can be is no instruction
    /// of the host's: QEMU takes it that nobody else looks at the memory, which its own
    /// threads and the file servers do (QEMU's c914d46d0a64, in 8.1, for `mfence`; never
    /// for the locked instructions that are Linux's). A word that a device would have
    /// woken up for is lost then, once in very long. Room for a second vCPU, which is
    /// not made, has them all translated as they are meant.
    fn processors(&self, accelerator: &Accelerator) -> String {
        match (accelerator, self.all_vcpus()) {
            (Accelerator::Tcg { .. }, 1) => "1,maxcpus=2".to_owned(),
            (_, all) => all.to_string(),
        }
    }

    /// The guest's and the spare.
    pub(crate) fn all_vcpus(&self) -> u32 {
        self.vcpus + self.spare.vcpus
    }

    /// The guest's and the spare, which begins with a block.
    fn all_memory(&self) -> u64 {
        match self.spare.memory {
            0 => self.memory,
            spare => self.memory.next_multiple_of(MEMORY_BLOCK) + spare,
        }
    }

    /// What the kernel leaves alone until it is told: Documentation/admin-guide/
    /// kernel-parameters.txt.
    fn left_alone(&self) -> impl Iterator<Item = String> {
        // The limit is an address.
        let hole = match self.memory > HOLE.0 {
            true => HOLE.1 - HOLE.0,
            false => 0,
        };
        let memory = (self.spare.memory > 0).then(|| (self.memory + hole) >> 20);
        let vcpus = (self.spare.vcpus > 0).then_some(self.vcpus);
        let memory = memory.map(|mebibytes| format!("mem={mebibytes}M"));
        memory
            .into_iter()
            .chain(vcpus.map(|own| format!("maxcpus={own}")))
    }

    fn boot(&self, accelerator: &Accelerator, args: &mut Arguments) {
        let mut words: Vec<String> = [
            "console=ttyS0",
            "quiet",
            "loglevel=4",
            "reboot=t",
            "panic=-1",
            "random.trust_cpu=on",
            // The driver makes an interface nobody asked for.
            "dummy.numdummies=0",
            // Blocks of per-CPU memory of the size they need: in blocks of 2 MiB,
            // the accounts of the second alone are 4.
            "percpu_alloc=page",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Accelerator::Tcg {
            tsc_khz: Some(khz), ..
        } = accelerator
        {
            words.push(format!("tsc_early_khz={khz}"));
            words.push("no_timer_check".to_owned());
        }
        if matches!(accelerator, Accelerator::Tcg { .. }) && !self.shares.is_empty() {
            words.push(REUSED.to_owned());
        }
        words.extend(self.left_alone());
        words.extend(self.cmdline.iter().cloned());
        // QEMU reads both with plain open(2), which knows no descriptor sets.
        args.pair("-kernel", format!("/proc/self/fd/{}", self.kernel));
        args.pair("-initrd", format!("/proc/self/fd/{}", self.initramfs));
        args.pair("-append", words.join(" "));
    }

    fn connections(&self, args: &mut Arguments) {
        args.pair("-chardev", format!("socket,id=console,fd={}", self.console));
        args.pair("-serial", "chardev:console");
        args.pair("-chardev", format!("socket,id=qmp,fd={}", self.qmp));
        args.pair("-mon", "chardev=qmp,mode=control");
        args.pair("-chardev", format!("socket,id=channel,fd={}", self.channel));
        args.pair("-device", "virtio-serial-device,max_ports=2");
        args.pair(
            "-device",
            format!("virtserialport,chardev=channel,name={CHANNEL_PORT}"),
        );
        args.pair("-device", "virtio-rng-device");
        args.pair(
            "-device",
            "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
        );
    }
}

/// A disk of nothing. Its device stands on a node of ours, which is made to stand
/// on something else while the machine runs.
fn spare(number: usize, read_only: bool, args: &mut Arguments) {
    let Slot {
        serial,
        node,
        nothing,
        ..
    } = Slot::of(number);
    let read_only = if read_only { "on" } else { "off" };
    // What is in QEMU's memory is not the guest's to read.
    args.pair(
        "-blockdev",
        format!("driver=null-co,node-name={nothing},size=0,read-zeroes=on,read-only={read_only}"),
    );
    args.pair(
        "-blockdev",
        format!("driver=raw,node-name={node},file={nothing},read-only={read_only}"),
    );
    args.pair(
        "-device",
        format!(
            "virtio-blk-device,drive={node},serial={serial},discard=on,werror=report,rerror=report"
        ),
    );
}

impl MachineDisk {
    fn arguments(&self, index: usize, args: &mut Arguments) {
        let node = format!("disk{index}");
        let read_only = if self.read_only { "on" } else { "off" };
        for fd in self.extents.iter().chain([&self.file]) {
            args.pair("-add-fd", format!("fd={fd},set={fd}"));
        }
        let file = fdset(self.file);
        let plain = format!(
            "driver=file,filename={file},read-only={read_only},locking=off,discard=unmap,aio=threads"
        );
        if self.extents.is_empty() {
            args.pair("-blockdev", format!("{plain},node-name={node}"));
        } else {
            args.pair("-blockdev", format!("{plain},node-name={node}d"));
            args.pair(
                "-blockdev",
                format!("driver=vmdk,file={node}d,read-only=on,node-name={node}"),
            );
        }
        args.pair(
            "-device",
            format!(
                "virtio-blk-device,drive={node},serial={},discard=on,werror=report,rerror=report",
                self.serial
            ),
        );
    }
}

impl MachineNet {
    fn arguments(&self, index: usize, args: &mut Arguments) {
        let id = format!("net{index}");
        let (netdev, queues) = match &self.fd {
            NetFd::Stream(fd) => (
                format!("stream,id={id},server=off,addr.type=fd,addr.str={fd}"),
                "",
            ),
            NetFd::Tap(fds) => tap(&id, fds),
        };
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        args.pair("-netdev", netdev);
        args.pair(
            "-device",
            format!(
                "virtio-net-device,netdev={id},mac={mac},host_mtu={}{queues}",
                self.mtu
            ),
        );
    }
}

/// The queues of a tap device, and what its network device has to say of them.
fn tap(id: &str, fds: &[i32]) -> (String, &'static str) {
    if let [fd] = fds {
        return (format!("tap,id={id},fd={fd},vhost=off"), "");
    }
    let list: Vec<String> = fds.iter().map(ToString::to_string).collect();
    let list = list.join(":");
    (format!("tap,id={id},fds={list},vhost=off"), ",mq=on")
}

#[derive(Default)]
struct Arguments {
    list: Vec<String>,
}

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.list.push(name.to_owned());
        self
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.list.push(name.to_owned());
        self.list.push(value.into());
        self
    }
}

/// The descriptor of a VMDK made of flat extents: how QEMU is told to put
/// files one behind the other. VMware's "Virtual Disk Format 5.0", section
/// "The Descriptor File".
pub(crate) fn vmdk_descriptor(extents: &[(i32, u64)]) -> String {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"monolithicFlat\"\n",
    );
    for (fd, length) in extents {
        // Access word RW: the file itself is opened read-only by descriptor.
        text.push_str(&format!("RW {} FLAT \"{}\" 0\n", length / 512, fdset(*fd)));
    }
    text
}

#[cfg(test)]
mod tests;
