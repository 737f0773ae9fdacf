//! Compiles the protos without a system `protoc`.
//!
//! `protox` parses them, comments included; the descriptor set is written for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: &[&str] = &[
    "lifeboat/v1/node.proto",
    "lifeboat/v1/workload.proto",
    "lifeboat/v1/checkpoint.proto",
];
const MESSAGES: &[&str] = &[
    "lifeboat/image/v1/manifest.proto",
    "lifeboat/hold/v1/hold.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=lifeboat");
    let descriptors = protox::compile(SERVICES.iter().chain(MESSAGES), ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
