//! `containerd-shim-bulkhead-v2`: between containerd (or CRI-O) and a pod in
//! its own virtual machine.
//!
//! ```text
//!   containerd ─ `start` ──▶ begin ─ executes itself ─▶ serve ─▶ address
//!              ─ ttrpc ────▶ task ──▶ pod ──▶ machine, rootfs, stdio
//!              ◀─ events ─── events ◀──┘
//!              ─ `delete` ─▶ end          (after the serving process died)
//! ```
//!
//! One process for each pod; the file server and the monitor die with it.

mod args;
mod begin;
mod block_root;
mod connections;
mod end;
mod events;
mod failure;
mod hooks;
mod layers;
mod logger;
mod logging;
mod machine;
mod memory;
mod metrics;
mod mount_points;
mod mounted_images;
mod mountinfo;
mod options;
mod place;
mod pod;
mod process;
mod rootfs;
mod sandbox;
mod serve;
mod stand_in;
mod stdio;
mod task;
mod trace;

use std::process::ExitCode;

use args::{Action, Args};
use bulkhead_provision::share;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if name == share::PROGRAM {
        return share::main(words);
    }
    if name == layers::PROGRAM {
        return layers::main(words);
    }
    if name == logger::PROGRAM {
        return logger::main(words);
    }
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("containerd-shim-bulkhead-v2: {text}");
            return ExitCode::from(2);
        }
    };
    logging::init(&args);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "containerd-shim-bulkhead-v2: {}",
                bulkhead_provision::chain(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    match args.action {
        Action::Version => println!("containerd-shim-bulkhead-v2 {}", env!("CARGO_PKG_VERSION")),
        Action::Help => print!("{}", args::HELP),
        Action::Start => begin::run(args)?,
        Action::Delete => end::run(args)?,
        Action::Serve(listener) => serve::run(args, listener)?,
    }
    Ok(())
}
