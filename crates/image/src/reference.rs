//! What a user calls an image.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;

/// Longest reference, bytes.
const LENGTH_MAX: usize = 4096;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `oci:PATH[:TAG]`: an OCI layout directory.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which image of it; none is fine when there is only one.
        tag: Option<String>,
    },
    /// `oci-archive:PATH[:TAG]`: a tar of an OCI layout.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it.
        tag: Option<String>,
    },
    /// `docker-archive:PATH[:TAG]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it.
        tag: Option<String>,
    },
    /// A name in a registry, with its registry and its tag or digest.
    Registry(String),
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::Reference {
            reference: text.chars().take(200).collect(),
            problem,
        };
        if text.len() > LENGTH_MAX || text.chars().any(char::is_control) {
            return Err(wrong("it is too long or holds control characters"));
        }
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme @ ("oci" | "oci-archive" | "docker-archive"), rest)) => (scheme, rest),
            _ => return registry(text).ok_or_else(|| {
                wrong("write oci:PATH[:TAG], oci-archive:PATH, docker-archive:PATH or a registry's NAME[:TAG]")
            }),
        };
        let (path, tag) = split_tag(rest);
        if path.is_empty() || path.ends_with(':') {
            return Err(wrong("the path is missing"));
        }
        let path = PathBuf::from(path);
        let tag = tag.map(str::to_owned);
        Ok(match scheme {
            "oci" => Self::Layout { path, tag },
            "oci-archive" => Self::OciArchive { path, tag },
            _ => Self::DockerArchive { path, tag },
        })
    }
}

/// A tag has no slash, so the last colon before none is the tag's.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag)),
        _ => (text, None),
    }
}

fn registry(text: &str) -> Option<ImageRef> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let first = text.chars().next()?;
    let sane = text.chars().all(fine) && first.is_ascii_alphanumeric() && !text.contains("..");
    let name = if sane {
        crate::registry::canonical(text)
    } else {
        None
    }?;
    Some(ImageRef::Registry(name))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path, tag) = match self {
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, tag } => ("docker-archive", path, tag),
            Self::Registry(name) => return f.write_str(name),
        };
        write!(f, "{scheme}:{}", path.display())?;
        tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_may_hold_colons_before_a_slash() {
        let parsed: ImageRef = "oci:/a:b/c:v1".parse().unwrap();
        assert_eq!(
            parsed,
            ImageRef::Layout {
                path: "/a:b/c".into(),
                tag: Some("v1".into())
            }
        );
        let parsed: ImageRef = "oci:./x".parse().unwrap();
        assert_eq!(
            parsed,
            ImageRef::Layout {
                path: "./x".into(),
                tag: None
            }
        );
    }

    #[test]
    fn names_of_registries_are_told_apart() {
        assert!(matches!(
            "localhost:5000/a/b:1".parse(),
            Ok(ImageRef::Registry(_))
        ));
        assert_eq!(
            "debian".parse::<ImageRef>().unwrap(),
            ImageRef::Registry("docker.io/library/debian:latest".to_owned())
        );
        for wrong in ["", "bb2V/2", "oci:", "oci:/a:", "-rf", "../x", "a b", "a\n"] {
            assert!(wrong.parse::<ImageRef>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_back_the_same(text in "(oci|oci-archive|docker-archive):/[a-z/:.]{1,30}") {
            if let Ok(parsed) = text.parse::<ImageRef>() {
                prop_assert_eq!(parsed.to_string().parse::<ImageRef>().unwrap(), parsed);
            }
        }

        #[test]
        fn nothing_panics(text in ".{0,80}") {
            let _ = text.parse::<ImageRef>();
        }
    }
}
