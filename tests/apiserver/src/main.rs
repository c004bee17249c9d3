//! The test API server by hand: `bulkhead-apiserver [--port 8001] [FILE.json ...]`, then
//! `kubectl --server http://127.0.0.1:8001 get nodes`.

use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_apiserver::{Options, Server};
use clap::Parser;

/// Serves the Kubernetes API from memory, for tests.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The port on the loopback interface; 0 for any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Objects to begin with, JSON.
    files: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the server cannot listen; choose another port with --port")]
    Listen(#[source] std::io::Error),
    #[error("`{}` cannot be read", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is not JSON; convert it first, as with `kubectl create --dry-run=client -o json`", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("`{}` is refused", path.display())]
    Load {
        path: PathBuf,
        source: bulkhead_apiserver::Failure,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text.push_str(&format!(": {error}"));
                source = error.source();
            }
            eprintln!("bulkhead-apiserver: {text}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> Result<(), Error> {
    let options = Options {
        port: arguments.port,
        ..Options::default()
    };
    let server = Server::start(options).await.map_err(Error::Listen)?;
    for path in arguments.files {
        let text = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        let object = serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        server
            .load(object)
            .map_err(|source| Error::Load { path, source })?;
    }
    println!("{}", server.url());
    std::future::pending().await
}
