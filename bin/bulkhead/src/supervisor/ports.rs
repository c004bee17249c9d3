//! Published ports: `[[IP:]HOST:]CONTAINER[/tcp|/udp]`, each side one port or a
//! range of the same length.

use super::network::is_address;

/// Ports in one range at most.
const RANGE_MAX: u16 = 1024;

/// A published port or range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    address: Option<String>,
    host: (u16, u16),
    container: (u16, u16),
    pub(super) udp: bool,
}

impl Port {
    /// As passt(1) takes it: `[ADDRESS/]FIRST[-LAST]:FIRST[-LAST]`.
    pub(super) fn argument(&self) -> String {
        let range = |(first, last): (u16, u16)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        };
        let address = self
            .address
            .as_ref()
            .map(|a| format!("{a}/"))
            .unwrap_or_default();
        format!("{address}{}:{}", range(self.host), range(self.container))
    }
}

impl Port {
    /// Is it on an IPv6 address only?
    pub(super) fn needs_v6(&self) -> bool {
        self.address.as_ref().is_some_and(|text| text.contains(':'))
    }

    /// Tries each host port for a moment: passt only warns of one it cannot
    /// have, and the container would run unreachable. `v6`: IPv6 as well.
    pub(super) fn check_free(&self, v6: bool) -> Result<(), String> {
        let addresses = match self.address.as_deref() {
            Some(address) => vec![address],
            None if v6 => vec!["0.0.0.0", "::"],
            None => vec!["0.0.0.0"],
        };
        for port in self.host.0..=self.host.1 {
            for address in &addresses {
                let bound = if self.udp {
                    std::net::UdpSocket::bind((*address, port)).map(|_| ())
                } else {
                    std::net::TcpListener::bind((*address, port)).map(|_| ())
                };
                bound.map_err(|e| refusal(port, address, &e))?;
            }
        }
        Ok(())
    }
}

fn refusal(port: u16, address: &str, error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; low ports are for root: publish one that is 1024 or higher"
        }
        _ => "",
    };
    format!("the port {port} of {address} cannot be published: {error}{hint}")
}

/// Parses one `--publish`.
pub(crate) fn parse(text: &str) -> Result<Port, String> {
    let wrong =
        || format!("`--publish {text}`: write [[IP:]HOST:]CONTAINER[/udp], for example 8080:80");
    let (ports, udp) = match text.rsplit_once('/') {
        Some((ports, "udp")) => (ports, true),
        Some((ports, "tcp")) => (ports, false),
        Some(_) => return Err(wrong()),
        None => (text, false),
    };
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, ports),
    };
    let (address, host) = match rest.map(|rest| rest.rsplit_once(':').unwrap_or(("", rest))) {
        Some((address, host)) => (
            Some(address.trim_matches(['[', ']'])).filter(|a| !a.is_empty()),
            host,
        ),
        None => (None, container),
    };
    let container = range(container).ok_or_else(wrong)?;
    let host = if host.is_empty() {
        container
    } else {
        range(host).ok_or_else(wrong)?
    };
    if address.is_some_and(|a| !is_address(a)) || host.1 - host.0 != container.1 - container.0 {
        return Err(wrong());
    }
    Ok(Port {
        address: address.map(str::to_owned),
        host,
        container,
        udp,
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last && last - first < RANGE_MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_read_as_podman_reads_them() {
        let argument = |text| parse(text).map(|port| port.argument());
        assert_eq!(argument("8080:80").unwrap(), "8080:80");
        assert_eq!(argument("80").unwrap(), "80:80");
        assert_eq!(
            argument("127.0.0.1:8080:80/tcp").unwrap(),
            "127.0.0.1/8080:80"
        );
        assert_eq!(argument("[::1]:8080:80").unwrap(), "::1/8080:80");
        assert!(parse("[::1]:8080:80").unwrap().needs_v6());
        assert!(!parse("127.0.0.1:8080:80").unwrap().needs_v6());
        assert_eq!(argument("127.0.0.1::80").unwrap(), "127.0.0.1/80:80");
        assert_eq!(
            argument("8000-8002:9000-9002").unwrap(),
            "8000-8002:9000-9002"
        );
        assert!(parse("53:53/udp").unwrap().udp);
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "0",
            "70000:1",
            "1-2:3",
            "x:80",
            "80/sctp",
            "1.2.3:80:80",
            "5-1:5-1",
            "1-9999",
        ] {
            assert!(parse(text).unwrap_err().contains("8080:80"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_typed_panics(text in "[0-9a-z.:/-]{0,30}") {
            let _ = parse(&text);
        }
    }
}
