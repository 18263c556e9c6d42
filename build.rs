//! Compiles `proto/**` without a system protoc and writes the descriptor sets that servers reflect.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", root.join("hive").display());
    println!("cargo::rerun-if-changed={}", root.join("google").display());

    let all = protos(&root.join("hive"))?;
    let set = protox::compile(&all, [&root])?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Bounded")
        .bytes(".")
        .compile_well_known_types(false)
        .btree_map(".")
        .compile_fds(set)?;

    for (file, packages) in [("server.bin", &["v1", "sidecar"][..]), ("agent.bin", &["agent"][..])] {
        let served: Vec<_> = all
            .iter()
            .filter(|path| packages.iter().any(|package| path.starts_with(root.join("hive").join(package))))
            .collect();
        fs::write(out.join(file), protox::compile(served, [&root])?.encode_to_vec())?;
    }
    Ok(())
}

fn protos(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(protos(&path)?);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
