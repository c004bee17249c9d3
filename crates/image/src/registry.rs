//! Images from a registry. OCI distribution spec v1.1, by the `oci-client` library.
//!
//! Blobs are streamed into the conversion and never lie on disk; the library speaks the protocol,
//! and everything it brings is verified by [`crate::source`] like that of any other source.

use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use tokio::runtime::Runtime;

use crate::{Error, Result};

/// What a manifest may be.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A registry that says nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// An image in a registry, and a way to talk to it.
pub(crate) struct Registry {
    runtime: Rc<Runtime>,
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// Gets ready to talk about `name`; nothing is sent yet. `insecure` takes any certificate and,
    /// where nobody speaks TLS, plain HTTP.
    pub(crate) fn open(name: &str, insecure: bool) -> Result<Self> {
        let reference: Reference = name.parse().map_err(|_| Error::Reference {
            reference: name.to_owned(),
            problem: "write REGISTRY/NAME[:TAG] or REGISTRY/NAME@DIGEST",
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::file("start a runtime for", name))?;
        let auth = credentials(reference.resolve_registry())?;
        // The one process-wide setting of TLS; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut registry = Self {
            runtime: Rc::new(runtime),
            client: client(ClientProtocol::Https, insecure),
            reference,
            auth,
        };
        if insecure && !registry.speaks_tls() {
            registry.client = client(ClientProtocol::Http, true);
        }
        Ok(registry)
    }

    /// Any answer but a broken connection is one of TLS.
    fn speaks_tls(&self) -> bool {
        let answer = self.runtime.block_on(self.client.pull_manifest_raw(
            &self.reference,
            &self.auth,
            &MANIFEST_TYPES,
        ));
        !matches!(answer, Err(OciDistributionError::RequestError(error)) if error.is_connect())
    }

    /// The manifest or index the reference names.
    pub(crate) fn manifest(&self) -> Result<Vec<u8>> {
        self.manifest_of(&self.reference)
    }

    /// A manifest an index names.
    pub(crate) fn manifest_by_digest(&self, digest: &str) -> Result<Vec<u8>> {
        self.manifest_of(&self.reference.clone_with_digest(digest.to_owned()))
    }

    /// The digest the user asked for, if it was one.
    pub(crate) fn asked_digest(&self) -> Option<&str> {
        self.reference.digest()
    }

    fn manifest_of(&self, reference: &Reference) -> Result<Vec<u8>> {
        let pulled = self.runtime.block_on(self.client.pull_manifest_raw(
            reference,
            &self.auth,
            &MANIFEST_TYPES,
        ));
        let (bytes, _digest) = pulled.map_err(|error| self.failed(error))?;
        Ok(bytes.to_vec())
    }

    /// A blob as it arrives.
    pub(crate) fn blob(&self, digest: &str) -> Result<Box<dyn Read>> {
        let stream = self
            .runtime
            .block_on(self.client.pull_blob_stream(&self.reference, digest))
            .map_err(|error| self.failed(error))?;
        Ok(Box::new(Arriving {
            runtime: Rc::clone(&self.runtime),
            // Fused: the library checks its digest at every end it is asked for.
            stream: stream.stream.fuse().boxed(),
            chunk: io::Cursor::default(),
        }))
    }

    fn failed(&self, source: OciDistributionError) -> Error {
        Error::Registry {
            image: self.reference.whole(),
            hint: self.hint(&source),
            source: Box::new(source),
        }
    }

    fn hint(&self, error: &OciDistributionError) -> String {
        let registry = self.reference.resolve_registry();
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => {
                format!("; log in with `podman login {registry}` or `docker login {registry}`")
            }
            OciDistributionError::RequestError(error) if error.is_connect() => {
                "; if it has no trusted certificate: --tls-verify=false".to_owned()
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let denied = |code: &OciErrorCode| {
                    matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied)
                };
                match envelope.errors.iter().any(|error| denied(&error.code)) {
                    true => format!("; log in with `podman login {registry}`, if it exists"),
                    false => String::new(),
                }
            }
            _ => String::new(),
        }
    }
}

fn client(protocol: ClientProtocol, insecure: bool) -> Client {
    Client::new(ClientConfig {
        protocol,
        accept_invalid_certificates: insecure,
        read_timeout: Some(SILENCE_MAX),
        connect_timeout: Some(CONNECT_MAX),
        user_agent: concat!("bulkhead/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// What Podman or Docker wrote down at `login`. containers-auth.json(5).
fn credentials(registry: &str) -> Result<RegistryAuth> {
    let nothing = |error: &CredentialRetrievalError| {
        matches!(
            error,
            CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::ConfigReadError
                | CredentialRetrievalError::NoCredentialConfigured
        )
    };
    // Docker keeps its own registry under the address of its first interface.
    let server = match registry {
        "index.docker.io" | "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let found =
        docker_credential::get_podman_credential(server).or_else(|error| match nothing(&error) {
            true => docker_credential::get_credential(server),
            false => Err(error),
        });
    match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(error) if nothing(&error) => Ok(RegistryAuth::Anonymous),
        Err(source) => Err(Error::Credentials {
            registry: registry.to_owned(),
            source: Box::new(source),
        }),
    }
}

/// A body read as it arrives, by whoever is not async.
struct Arriving {
    runtime: Rc<Runtime>,
    stream: BoxStream<'static, io::Result<bytes::Bytes>>,
    chunk: io::Cursor<bytes::Bytes>,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.runtime.block_on(self.stream.next()) {
                Some(Ok(chunk)) => self.chunk = io::Cursor::new(chunk),
                // The library found a wrong digest: whoever reads checks it too, and says it better.
                Some(Err(error))
                    if error
                        .get_ref()
                        .is_some_and(|inner| inner.is::<DigestError>()) =>
                {
                    return Ok(0);
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(0),
            }
        }
    }
}

/// A name as it is kept: with its registry and tag. `None` for one that would not be read back as
/// what it is (capital letters make a repository look like a registry).
pub(crate) fn canonical(text: &str) -> Option<String> {
    let name: Reference = text.parse().ok()?;
    let whole = name.whole();
    let again: Reference = whole.parse().ok()?;
    (again == name).then_some(whole)
}
