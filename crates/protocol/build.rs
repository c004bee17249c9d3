//! Generates the ttrpc services from `proto/`; pure Rust, no protoc needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR")?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    for name in ["agent.rs", "agent_ttrpc.rs"] {
        allow_inclusion(&Path::new(&out).join(name))?;
    }
    Ok(())
}

/// The generated files open with inner attributes, which `include!` refuses.
fn allow_inclusion(path: &Path) -> std::io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
        .collect();
    std::fs::write(path, kept.join("\n"))
}
