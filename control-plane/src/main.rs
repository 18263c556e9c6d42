//! `hive-control-plane`: see the library.

fn main() -> std::process::ExitCode {
    hive_control_plane::main()
}
