//! The command line. Values stay text here: `load` judges them together with all others.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The control plane of Hive: keeps agents and tasks, and hands tasks to sidecars.
///
/// Every setting can also be given in a TOML file (`limits.connections`) or as an environment
/// variable (`HIVE_LIMITS__CONNECTIONS`); a flag wins over the environment, that over the file.
#[derive(Debug, Parser)]
#[command(name = "hive-control-plane", version)]
pub struct Program {
    /// Settings.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows settings.
    Config {
        /// What to do with them.
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

/// What can be done with settings.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigVerb {
    /// Prints what was given, as TOML with the source of each value; secrets are masked.
    Print {
        /// Prints every setting, defaults included.
        #[arg(long)]
        effective: bool,
    },
}

/// Settings with a flag.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Folder of the store.
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address for clients and sidecars [default: 127.0.0.1:7070].
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address for health and metrics [default: 127.0.0.1:7071].
    #[arg(long, global = true, value_name = "ADDR")]
    pub ops_listen: Option<String>,
    /// TOML file with settings.
    #[arg(long, global = true, value_name = "FILE", env = "HIVE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Stop gracefully when standard input ends: the parent holds the other end of a pipe.
    #[arg(long, global = true)]
    pub stop_on_stdin_eof: bool,
    /// File to write once the server is ready: JSON with `listen`, `ops_listen` and `pid`.
    #[arg(long, global = true, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Allow plain text beyond this machine.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Certificate (PEM) to serve clients and sidecars over TLS.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CA (PEM) of the certificates that clients and sidecars must show.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Do not answer reflection.
    #[arg(long, global = true)]
    pub no_reflection: bool,
    /// Form of the log: text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Flags {
    /// The settings given, as (path, flag, value).
    pub(super) fn given(&self) -> Vec<(&'static str, &'static str, String)> {
        let path = |path: &PathBuf| OsString::from(path).to_string_lossy().into_owned();
        let mut given = Vec::new();
        let mut put = |field, flag, value: Option<String>| given.extend(value.map(|value| (field, flag, value)));
        put("data", "--data", self.data.as_ref().map(path));
        put("listen", "--listen", self.listen.clone());
        put("ops_listen", "--ops-listen", self.ops_listen.clone());
        put("stop_on_stdin_eof", "--stop-on-stdin-eof", self.stop_on_stdin_eof.then(|| "true".to_owned()));
        put("ready_file", "--ready-file", self.ready_file.as_ref().map(path));
        put("insecure", "--insecure", self.insecure.then(|| "true".to_owned()));
        put("tls.cert", "--tls-cert", self.tls_cert.as_ref().map(path));
        put("tls.key", "--tls-key", self.tls_key.as_ref().map(path));
        put("tls.client_ca", "--tls-client-ca", self.tls_client_ca.as_ref().map(path));
        put("reflection", "--no-reflection", self.no_reflection.then(|| "false".to_owned()));
        put("log.format", "--log-format", self.log_format.clone());
        given
    }
}
