//! `hive`: see the library.

fn main() -> std::process::ExitCode {
    hive_cli::main()
}
