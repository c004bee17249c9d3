//! Values with units, each with its rules.

use std::str::FromStr;

use oci_spec::runtime::PosixRlimitType;

/// A number of bytes: "512", "64k", "1g", "1.5GiB". Units are powers of 1024,
/// as Podman's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ByteSize(u64);

impl ByteSize {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size; write for example 512m or 1.5g");
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(1 << shift).ok_or_else(wrong)?,
            Err(_) => {
                let value: f64 = number.parse().map_err(|_| wrong())?;
                let bytes = value * (1u64 << shift) as f64;
                if !bytes.is_finite() || !(0.0..9e18).contains(&bytes) {
                    return Err(wrong());
                }
                bytes as u64
            }
        };
        Ok(Self(bytes))
    }
}

/// A resource limit: "nofile=1024:2048".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ulimit {
    pub(crate) kind: PosixRlimitType,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no limit; write for example nofile=1024:2048");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let kind = match name {
            "as" => PosixRlimitType::RlimitAs,
            "core" => PosixRlimitType::RlimitCore,
            "cpu" => PosixRlimitType::RlimitCpu,
            "data" => PosixRlimitType::RlimitData,
            "fsize" => PosixRlimitType::RlimitFsize,
            "locks" => PosixRlimitType::RlimitLocks,
            "memlock" => PosixRlimitType::RlimitMemlock,
            "msgqueue" => PosixRlimitType::RlimitMsgqueue,
            "nice" => PosixRlimitType::RlimitNice,
            "nofile" => PosixRlimitType::RlimitNofile,
            "nproc" => PosixRlimitType::RlimitNproc,
            "rss" => PosixRlimitType::RlimitRss,
            "rtprio" => PosixRlimitType::RlimitRtprio,
            "rttime" => PosixRlimitType::RlimitRttime,
            "sigpending" => PosixRlimitType::RlimitSigpending,
            "stack" => PosixRlimitType::RlimitStack,
            _ => return Err(wrong()),
        };
        let value = |text: &str| match text {
            "unlimited" | "-1" => Ok(u64::MAX),
            text => text.parse::<u64>().map_err(|_| wrong()),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(values)?, value(values)?),
        };
        if soft > hard {
            Err(wrong())
        } else {
            Ok(Self { kind, soft, hard })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<ByteSize>().ok().map(ByteSize::bytes)
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("64k"), Some(64 << 10));
        assert_eq!(size("1.5GiB"), Some(3 << 29));
        for text in ["", "m", "-1", "1x", "1e3g", "99999999999t", "1..5g", "nan"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn limits_have_a_type_and_one_or_two_values() {
        let limit: Ulimit = "nofile=10:20".parse().unwrap();
        assert_eq!((limit.soft, limit.hard), (10, 20));
        assert_eq!("core=-1".parse::<Ulimit>().unwrap().hard, u64::MAX);
        for text in ["nofile", "x=1", "nofile=2:1", "nofile="] {
            assert!(text.parse::<Ulimit>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_typed_panics(text in ".{0,40}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Ulimit>();
        }
    }
}
