//! Compiles every `.proto` below `/proto` into Rust, without a system `protoc`.
//!
//! - Messages, clients and servers of every package (`bytes` fields become `bytes::Bytes`).
//! - proto3 JSON only for `holdfast.v1`: what people and programs outside the cluster see.
//! - The file descriptor set, for reflection.
//! - A package that has no file yet becomes an empty module, so that `src/proto.rs` always compiles.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;

/// Packages that `src/proto.rs` includes, and whether they also have a JSON form.
const PACKAGES: [(&str, bool); 3] =
    [("holdfast.log.v1", false), ("holdfast.peer.v1", false), ("holdfast.v1", true)];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // A directory is watched with everything below it.
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut files = Vec::new();
    find_protos(&root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();
    fs::write(out.join("descriptors.bin"), without_comments(descriptors.clone()).encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_well_known_types(true)
        // The first that fits counts.
        .extern_path(".google.protobuf.Timestamp", "crate::times::ProtoTimestamp")
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&compiler.encode_file_descriptor_set())?
        // The first that fits counts.
        .extern_path(".google.protobuf.Timestamp", "crate::times::ProtoTimestamp")
        .extern_path(".google.protobuf", "::pbjson_types")
        .build(&[".holdfast.v1"])?;

    for (package, has_json) in PACKAGES {
        create_if_missing(&out.join(format!("{package}.rs")))?;
        if has_json {
            create_if_missing(&out.join(format!("{package}.serde.rs")))?;
        }
    }
    Ok(())
}

fn find_protos(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Reflection needs names and numbers; the comments would double its size.
fn without_comments(
    mut descriptors: tonic_prost_build::FileDescriptorSet,
) -> tonic_prost_build::FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}

fn create_if_missing(path: &Path) -> io::Result<()> {
    if path.exists() { Ok(()) } else { fs::write(path, "") }
}
