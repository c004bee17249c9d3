//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of the sandbox,
//! shared by its containers as bind mounts.

use std::io;
use std::path::{Path, PathBuf};

use bulkhead_protocol::agent::ConfigureSandboxRequest;
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use rustix::mount::MountFlags;

const DIR: &str = "/run/sandbox";
const SHARED_MEMORY: &str = bulkhead_protocol::SHARED_MEMORY;

/// Writes the three files.
pub(crate) fn write(request: &ConfigureSandboxRequest) -> io::Result<()> {
    std::fs::create_dir_all(DIR)?;
    let put = |name: &str, text: String| std::fs::write(Path::new(DIR).join(name), text);
    put("hostname", format!("{}\n", request.hostname))?;
    put("hosts", hosts(request))?;
    put("resolv.conf", resolv_conf(request))?;
    shared_memory(request.shm_bytes)
}

/// The /dev/shm of all containers of a pod.
fn shared_memory(bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    std::fs::create_dir_all(SHARED_MEMORY)?;
    let data = std::ffi::CString::new(format!("mode=1777,size={bytes}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount(
        "shm",
        SHARED_MEMORY,
        "tmpfs",
        flags,
        Some(data.as_c_str()),
    )?)
}

fn hosts(request: &ConfigureSandboxRequest) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let interfaces = request.network.interfaces.iter();
    let addresses = interfaces.flat_map(|interface| &interface.addresses);
    let own = addresses.filter_map(|address| address.split('/').next());
    let own: Vec<&str> = own.collect();
    // A name of its own has to resolve even without a network.
    for address in if own.is_empty() {
        vec!["127.0.1.1"]
    } else {
        own
    } {
        text.push_str(&format!("{address}\t{}\n", request.hostname));
    }
    for line in &request.extra_hosts {
        text.push_str(&one_line(line));
        text.push('\n');
    }
    text
}

fn resolv_conf(request: &ConfigureSandboxRequest) -> String {
    let mut text = String::new();
    if !request.dns_search.is_empty() {
        text.push_str(&format!(
            "search {}\n",
            one_line(&request.dns_search.join(" "))
        ));
    }
    for server in &request.dns_servers {
        text.push_str(&format!("nameserver {}\n", one_line(server)));
    }
    if !request.dns_options.is_empty() {
        text.push_str(&format!(
            "options {}\n",
            one_line(&request.dns_options.join(" "))
        ));
    }
    text
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Adds the binds a container lacks. A read-only root filesystem or a volume
/// on one of the places stays as the caller asked.
pub(crate) fn add_mounts(spec: &mut Spec) {
    if !Path::new(DIR).join("hosts").exists() {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for name in ["hosts", "hostname", "resolv.conf"] {
        let destination = PathBuf::from("/etc").join(name);
        if mounts
            .iter()
            .all(|mount| *mount.destination() != destination)
        {
            mounts.push(bind(
                &Path::new(DIR).join(name),
                &destination,
                &["rbind", "rprivate"],
            ));
        }
    }
    spec.set_mounts(Some(mounts));
}

/// An OCI bind mount.
pub(crate) fn bind(source: &Path, destination: &Path, options: &[&str]) -> Mount {
    MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(destination)
        .options(
            options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("every field of the mount is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_cannot_add_a_line() {
        let request = ConfigureSandboxRequest {
            hostname: "web".into(),
            dns_servers: vec!["10.0.2.3\nnameserver 6.6.6.6".into()],
            extra_hosts: vec!["10.0.0.1 db\n10.0.0.2 evil".into()],
            ..Default::default()
        };
        assert_eq!(resolv_conf(&request).lines().count(), 1);
        assert_eq!(hosts(&request).lines().count(), 4);
    }

    #[test]
    fn the_hostname_resolves_with_and_without_a_network() {
        let mut request = ConfigureSandboxRequest {
            hostname: "web".into(),
            ..Default::default()
        };
        assert!(hosts(&request).contains("127.0.1.1\tweb"));
        let interface = bulkhead_protocol::agent::Interface {
            addresses: vec!["10.0.2.15/24".into()],
            ..Default::default()
        };
        request.network.mut_or_insert_default().interfaces = vec![interface];
        assert!(hosts(&request).contains("10.0.2.15\tweb"));
    }
}
