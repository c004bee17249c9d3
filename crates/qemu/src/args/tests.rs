use super::*;

fn machine() -> Machine {
    Machine {
        kernel: 10,
        initramfs: 11,
        cmdline: vec!["bulkhead.debug".to_owned()],
        vcpus: 2,
        memory: 512 << 20,
        spare: Spare::default(),
        parallel: true,
        disks: vec![
            MachineDisk {
                serial: "layers".into(),
                read_only: true,
                file: 12,
                extents: vec![13, 14],
            },
            MachineDisk {
                serial: "writable".into(),
                read_only: false,
                file: 15,
                extents: vec![],
            },
        ],
        nets: vec![MachineNet {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            fd: NetFd::Stream(16),
        }],
        shares: vec![],
        spares: vec![],
        console: 20,
        qmp: 21,
        channel: 22,
    }
}

fn tcg() -> Accelerator {
    Accelerator::Tcg {
        tsc_khz: Some(2_600_000),
        reason: "test".into(),
    }
}

fn line(accelerator: &Accelerator) -> String {
    machine().arguments(accelerator).join(" ")
}

#[test]
fn every_file_is_a_descriptor_and_no_path_is_a_tenants() {
    let line = line(&tcg());
    assert!(line.contains("-kernel /proc/self/fd/10 -initrd /proc/self/fd/11"));
    assert!(line.contains("-add-fd fd=13,set=13"));
    assert!(line.contains("driver=vmdk,file=disk0d,read-only=on,node-name=disk0"));
    assert!(line.contains("virtio-blk-device,drive=disk1,serial=writable"));
}

#[test]
fn emulation_is_told_the_clock_rate_and_kvm_is_not() {
    assert!(line(&tcg()).contains("tsc_early_khz=2600000"));
    let kvm = line(&Accelerator::Kvm { round_ns: 1 });
    assert!(kvm.contains("-accel kvm -cpu host") && !kvm.contains("tsc_early_khz"));
}

#[test]
fn emulated_processors_take_turns_where_running_beside_each_other_breaks_them() {
    assert!(line(&tcg()).contains("-accel tcg,thread=multi,"));
    let mut machine = machine();
    machine.parallel = false;
    let line = machine.arguments(&tcg()).join(" ");
    assert!(line.contains("-accel tcg,thread=single,"), "{line}");
}

#[test]
fn barriers_of_an_emulated_processor_that_is_alone_are_translated() {
    assert!(line(&tcg()).contains("-smp 2 "));
    let mut machine = machine();
    machine.vcpus = 1;
    let line = |accelerator: &_| machine.arguments(accelerator).join(" ");
    assert!(line(&tcg()).contains("-smp 1,maxcpus=2 "));
    assert!(line(&Accelerator::Kvm { round_ns: 1 }).contains("-smp 1 "));
}

#[test]
fn guest_memory_is_shared_only_for_shares() {
    assert!(line(&tcg()).contains("-object memory-backend-ram,id=ram,size=512M"));
    let mut machine = machine();
    machine.shares.push(MachineShare {
        tag: "share0".into(),
        socket: 30,
    });
    let line = machine.arguments(&tcg()).join(" ");
    assert!(line.contains("-object memory-backend-memfd,share=on,id=ram,size=512M"));
}

#[test]
fn an_emulated_guest_clears_pages_that_a_file_server_may_fill() {
    assert!(!line(&tcg()).contains(REUSED));
    let mut machine = machine();
    machine.shares.push(MachineShare {
        tag: "share0".into(),
        socket: 30,
    });
    let line = |accelerator: &_| machine.arguments(accelerator).join(" ");
    assert!(line(&tcg()).contains(REUSED));
    assert!(!line(&Accelerator::Kvm { round_ns: 1 }).contains(REUSED));
}

#[test]
fn a_serial_that_could_add_options_is_refused() {
    let mut machine = machine();
    machine.disks[0].serial = "a,readonly=off".into();
    assert!(machine.check().unwrap_err().to_string().contains("serial"));
}

#[test]
fn too_many_devices_are_refused_with_the_way_out() {
    let mut machine = machine();
    for number in 0..30 {
        machine.shares.push(MachineShare {
            tag: format!("share{number}"),
            socket: 30,
        });
    }
    assert!(
        machine
            .check()
            .unwrap_err()
            .to_string()
            .contains("fewer volumes")
    );
}

#[test]
fn extents_are_listed_in_sectors() {
    let text = vmdk_descriptor(&[(13, 4096), (14, 1 << 20)]);
    assert!(text.ends_with("RW 8 FLAT \"/dev/fdset/13\" 0\nRW 2048 FLAT \"/dev/fdset/14\" 0\n"));
}

#[test]
fn the_agents_port_has_the_name_the_agent_looks_for() {
    assert_eq!(CHANNEL_PORT, bulkhead_protocol::CHANNEL_PORT);
    assert_eq!(MEMORY_BLOCK, bulkhead_protocol::MEMORY_BLOCK);
}

#[test]
fn a_spare_disk_is_nothing_behind_a_node_of_ours() {
    assert!(!line(&tcg()).contains("spare"));
    let mut machine = machine();
    machine.spares = vec![false, true];
    let line = machine.arguments(&tcg()).join(" ");
    for part in [
        "driver=null-co,node-name=spare0n,size=0,read-zeroes=on,read-only=off",
        "driver=raw,node-name=spare1,file=spare1n,read-only=on",
        "virtio-blk-device,drive=spare1,serial=spare1,",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    machine.spares = vec![false; 19];
    assert!(machine.check().is_err());
}

#[test]
fn a_full_host_is_an_error_of_the_disk_and_does_not_stop_the_machine() {
    let line = line(&tcg());
    assert_eq!(line.matches("werror=report,rerror=report").count(), 2);
}

#[test]
fn a_tap_device_of_several_queues_says_so() {
    let mut machine = machine();
    machine.nets[0].fd = NetFd::Tap(vec![17]);
    let one = machine.arguments(&tcg()).join(" ");
    assert!(one.contains("tap,id=net0,fd=17,vhost=off") && !one.contains("mq=on"));
    machine.nets[0].fd = NetFd::Tap(vec![17, 18]);
    let two = machine.arguments(&tcg()).join(" ");
    assert!(two.contains("tap,id=net0,fds=17:18,vhost=off") && two.contains(",mq=on"));
}

#[test]
fn the_guest_is_told_to_leave_alone_what_is_spare() {
    assert!(!line(&tcg()).contains("mem=") && !line(&tcg()).contains("maxcpus="));
    let mut machine = machine();
    machine.spare = Spare {
        vcpus: 3,
        memory: 1 << 30,
    };
    let text = machine.arguments(&tcg()).join(" ");
    assert!(text.contains("-m 1536M -smp 5"), "{text}");
    assert!(text.contains("size=1536M"), "{text}");
    assert!(
        text.contains("mem=512M") && text.contains("maxcpus=2"),
        "{text}"
    );
    // Spare memory begins with a block, and what is above the hole has addresses
    // that much higher: a limit is an address.
    machine.memory = (3 << 30) + (100 << 20);
    let text = machine.arguments(&tcg()).join(" ");
    assert!(
        text.contains("-m 4224M") && text.contains("mem=4196M"),
        "{text}"
    );
}
