//! `hive-sidecar`: see the library.

fn main() -> std::process::ExitCode {
    hive_sidecar::main()
}
