use super::*;
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder, RootFsBuilder};

fn image() -> ImageConfiguration {
    let config = ConfigBuilder::default()
        .entrypoint(vec!["/entry".to_owned()])
        .cmd(vec!["default".to_owned()])
        .env(vec!["PATH=/image".to_owned(), "A=image".to_owned()])
        .user("web:web")
        .working_dir("/srv")
        .stop_signal("QUIT")
        .build()
        .unwrap();
    ImageConfigurationBuilder::default()
        .config(config)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![])
                .build()
                .unwrap(),
        )
        .build()
        .unwrap()
}

fn options() -> ContainerOptions {
    ContainerOptions {
        shm_size: "64m".parse().unwrap(),
        pids_limit: 2048,
        stop_timeout: 10,
        ..Default::default()
    }
}

fn resolved(options: &ContainerOptions) -> Resolved {
    resolve(options, Some(&image()), &|_| None, "0123456789ab").unwrap()
}

fn args(resolved: &Resolved) -> Vec<String> {
    resolved
        .spec
        .process()
        .as_ref()
        .unwrap()
        .args()
        .clone()
        .unwrap()
}

#[test]
fn the_image_says_what_runs_and_the_user_may_say_otherwise() {
    assert_eq!(args(&resolved(&options())), ["/entry", "default"]);
    let with = |entrypoint: Option<&str>, command: &[&str]| {
        let mut options = options();
        options.entrypoint = entrypoint.map(str::to_owned);
        options.command = command.iter().map(|&word| word.to_owned()).collect();
        args(&resolved(&options))
    };
    assert_eq!(with(None, &["x"]), ["/entry", "x"]);
    assert_eq!(with(Some("/other"), &[]), ["/other"]);
    assert_eq!(with(Some("[\"/a\", \"b\"]"), &["c"]), ["/a", "b", "c"]);
    assert_eq!(with(Some(""), &["c"]), ["c"]);
}

#[test]
fn the_images_user_directory_environment_and_signal_are_kept() {
    let resolved = resolved(&options());
    let process = resolved.spec.process().as_ref().unwrap();
    assert_eq!(resolved.user, "web:web");
    assert_eq!(resolved.stop_signal, "QUIT");
    assert_eq!(process.cwd(), &PathBuf::from("/srv"));
    let env = process.env().clone().unwrap();
    assert!(env.contains(&"PATH=/image".to_owned()) && env.contains(&"A=image".to_owned()));
    assert!(env.contains(&"HOSTNAME=0123456789ab".to_owned()));
}

#[test]
fn no_command_at_all_is_an_error() {
    let error = resolve(&options(), None, &|_| None, "x").unwrap_err();
    assert!(matches!(error, SpecError::NoCommand));
}

#[test]
fn an_ordinary_container_is_filtered_and_a_privileged_one_is_not() {
    let plain = resolved(&options());
    assert!(plain.spec.linux().as_ref().unwrap().seccomp().is_some());
    let mut options = options();
    options.privileged = true;
    let privileged = resolved(&options);
    let linux = privileged.spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none() && linux.masked_paths().as_ref().unwrap().is_empty());
}

#[test]
fn limits_become_resources() {
    let mut options = options();
    options.memory = Some("256m".parse().unwrap());
    options.cpus = Some(0.5);
    let resolved = resolved(&options);
    let resources = resolved
        .spec
        .linux()
        .as_ref()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    assert_eq!(resources.memory().unwrap().limit(), Some(256 << 20));
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
    assert_eq!(resources.pids().unwrap().limit(), 2048);
}

#[test]
fn what_a_sandbox_does_not_have_is_refused_with_the_way_out() {
    let refused = |change: fn(&mut ContainerOptions)| {
        let mut options = options();
        change(&mut options);
        resolve(&options, Some(&image()), &|_| None, "x")
            .unwrap_err()
            .to_string()
    };
    assert!(refused(|o| o.device = vec!["/dev/sda".into()]).contains("--privileged"));
    assert!(refused(|o| o.security_opt = vec!["apparmor=x".into()]).contains("AppArmor"));
    assert!(refused(|o| o.security_opt = vec!["label=type:x".into()]).contains("SELinux"));
    assert!(refused(|o| o.cpus = Some(-1.0)).contains("--cpus"));
    assert!(refused(|o| o.sysctl = vec!["../x=1".into()]).contains("--sysctl"));
    assert!(refused(|o| o.hostname = Some("a b".into())).contains("--hostname"));
}

#[test]
fn a_tmpfs_of_the_users_replaces_the_default_mount() {
    let mut options = options();
    options.tmpfs = vec!["/dev/shm:size=1m".into()];
    let mounts = resolved(&options).spec.mounts().clone().unwrap();
    let shm: Vec<_> = mounts
        .iter()
        .filter(|m| m.destination() == &PathBuf::from("/dev/shm"))
        .collect();
    assert_eq!(shm.len(), 1);
    assert!(
        shm[0]
            .options()
            .as_ref()
            .unwrap()
            .contains(&"size=1048576".to_owned())
    );
}
