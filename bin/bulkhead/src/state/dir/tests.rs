use super::*;
use crate::state::record::{NetworkMode, RootfsSource};
use crate::state::{Root, Status, id};

fn record(name: &str) -> Record {
    Record {
        format: FORMAT,
        id: id::random().unwrap(),
        name: name.into(),
        created: 1,
        rootfs: RootfsSource::Directory("/x".into()),
        spec: oci_spec::runtime::Spec::default(),
        user: String::new(),
        volumes: vec![],
        memory: 1 << 28,
        vcpus: 1,
        storage: 1 << 30,
        network: NetworkMode::None,
        ports: vec![],
        dns: vec![],
        hostname: "h".into(),
        extra_hosts: vec![],
        labels: Default::default(),
        terminal: false,
        interactive: false,
        auto_remove: false,
        stop_signal: 15,
        stop_timeout: 10,
        keep_log: true,
        accel: "auto".into(),
        kernel: "auto".into(),
        image_micros: 0,
    }
}

fn root() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir().unwrap();
    let root = Root::open(temp.path()).unwrap();
    (temp, root)
}

#[test]
fn a_name_has_one_owner_and_is_free_again_after_removal() {
    let (_temp, root) = root();
    let dir = root.create(&record("web")).unwrap();
    let text = root.create(&record("web")).unwrap_err().to_string();
    assert!(
        text.contains("`web`") && text.contains("bulkhead rm web"),
        "{text}"
    );
    root.remove(&dir).unwrap();
    root.create(&record("web")).unwrap();
}

#[test]
fn containers_are_found_by_name_id_and_prefix() {
    let (_temp, root) = root();
    let record = record("web");
    root.create(&record).unwrap();
    for wanted in ["web", &record.id, &record.id[..10]] {
        assert_eq!(root.find(wanted).unwrap().record().unwrap().id, record.id);
    }
    assert!(matches!(
        root.find("nobody"),
        Err(StateError::NoContainer(_))
    ));
}

#[test]
fn a_live_state_with_a_free_lock_is_a_dead_container() {
    let (_temp, root) = root();
    let dir = root.create(&record("web")).unwrap();
    let lock = dir.try_lock().unwrap().expect("nobody holds it");
    assert_eq!(dir.state().unwrap().status, Status::Starting);
    drop(lock);
    let state = dir.state().unwrap();
    assert_eq!((state.status, state.exit_code), (Status::Exited, Some(255)));
    assert!(state.reason.unwrap().contains("supervisor was killed"));
}

#[test]
fn leftovers_of_a_kill_are_collected() {
    let (temp, root) = root();
    let half = temp.path().join("containers/.half");
    std::fs::create_dir(&half).unwrap();
    root.collect().unwrap();
    assert!(!half.exists());
}

#[test]
fn a_damaged_state_says_which_file_and_what_to_do() {
    let (_temp, root) = root();
    let dir = root.create(&record("web")).unwrap();
    for garbage in ["", "{", "{\"format\":99}", "[]"] {
        std::fs::write(dir.file("state.json"), garbage).unwrap();
        let text = dir.state().unwrap_err().to_string();
        assert!(
            text.contains("state.json") && text.contains("rm --force"),
            "{text}"
        );
    }
}
