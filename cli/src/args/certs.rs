//! Options of `certs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(crate) struct Certs {
    #[command(subcommand)]
    pub(crate) verb: CertsVerb,
}

/// What to make.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsVerb {
    /// Make a CA: ca.pem, ca.key and the trust domain's name.
    Init {
        #[command(flatten)]
        folder: Folder,
        /// Name of all that this CA vouches for, the first part of every identity.
        #[arg(long, value_name = "NAME", default_value = "hive.local")]
        trust_domain: String,
        /// Days until the CA expires.
        #[arg(long, value_name = "N", default_value_t = 3_650, value_parser = clap::value_parser!(u16).range(1..=36_500))]
        days: u16,
    },
    /// Make a control plane's certificate: server.pem and server.key.
    Server {
        #[command(flatten)]
        leaf: Leaf,
        /// Name or IP address it is reached under, besides localhost, 127.0.0.1 and ::1; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Name of the replica and of the files.
        #[arg(long, value_name = "NAME", default_value = "server")]
        name: String,
    },
    /// Make a sidecar's certificate: sidecar-ID.pem and sidecar-ID.key. --namespace says of which namespace.
    Sidecar {
        /// The sidecar's id, as in its --id.
        id: String,
        #[command(flatten)]
        leaf: Leaf,
    },
    /// Make a client's certificate, for `hive` and programs with the SDK: NAME.pem and NAME.key.
    Client {
        /// Name of the client and of the files.
        #[arg(default_value = "client")]
        name: String,
        #[command(flatten)]
        leaf: Leaf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Folder {
    /// Folder of the CA and of all it signs.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Leaf {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Days until it expires.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3_650))]
    pub(crate) days: u16,
}
